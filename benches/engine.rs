//! What the engine promises about speed, measured against yardsticks in the same run.
//!
//! `cargo bench --bench engine -- [end_to_end|accept|backlog|round_trip] [COUNT]`; each prints one line of JSON a figure.
//! `end_to_end` needs Postfix's `smtp-sink` and `smtp-source`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::transport::{Connection, Transport};
use postrider::{Dispatcher, Drain, Mail, Priority, Relay, seconds};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZE: usize = 2048;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let which = args.first().map_or("end_to_end", String::as_str).to_owned();
    let count = args.get(1).map_or(50_000, |count| count.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match which.as_str() {
        "end_to_end" => runtime.block_on(end_to_end(count)),
        "accept" => runtime.block_on(accept(count)),
        "backlog" => runtime.block_on(backlog(count)),
        "round_trip" => runtime.block_on(round_trip()),
        other => panic!("no benchmark is named {other}"),
    }
}

fn mail(n: usize) -> Mail {
    let text = "All work and no play makes a dull mail.\r\n".repeat(SIZE / 41);
    let built = Mail::builder().from("bench@example.com").to(format!("user{n}@example.org")).subject("A benchmark");
    built.text(text).build().unwrap()
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sink() -> (Running, u16) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("smtp-sink");
    command.args(["-u", "nobody", &format!("127.0.0.1:{port}"), "1024"]);
    let child = command.stdout(Stdio::null()).spawn().expect("smtp-sink comes with Debian's postfix");
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    (Running(child), port)
}

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn peak_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn submit_all(postrider: &Dispatcher, count: usize, callers: usize) -> Vec<Duration> {
    let mut tasks = Vec::new();
    for caller in 0..callers {
        let postrider = postrider.clone();
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::with_capacity(count / callers);
            for n in 0..count / callers {
                let mail = mail(caller * 1_000_000 + n);
                let started = Instant::now();
                postrider.submit(mail).await.unwrap();
                times.push(started.elapsed());
            }
            times
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort();
    all
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0
}

async fn end_to_end(count: usize) {
    let (_sink, port) = sink();
    let source = || {
        let started = Instant::now();
        let mut command = Command::new("smtp-source");
        command.args([
            "-d",
            "-s",
            "64",
            "-l",
            &SIZE.to_string(),
            "-m",
            &count.to_string(),
            &format!("127.0.0.1:{port}"),
        ]);
        assert!(command.status().expect("smtp-source comes with Debian's postfix").success());
        count as f64 / started.elapsed().as_secs_f64()
    };
    let yardstick = source();
    let dir = tempfile::tempdir_in(".").unwrap();
    let relay = Relay::smtp(&format!("smtp://127.0.0.1:{port}")).unwrap().connections(64);
    let postrider = Dispatcher::builder().relay(relay).spool(dir.path()).start().await.unwrap();
    let _ = submit_all(&postrider, 640, 64).await;
    postrider.wait_idle().await;
    let (started, cpu_before) = (Instant::now(), cpu());
    let times = submit_all(&postrider, count, 64).await;
    let accepted = started.elapsed();
    while postrider.stats().await.unwrap().delivered < (count / 64 * 64 + 640) as u64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = started.elapsed();
    let rate = times.len() as f64 / took.as_secs_f64();
    println!(
        "{{\"bench\": \"end_to_end\", \"mails\": {}, \"per_s\": {rate:.0}, \"smtp_source_per_s\": {yardstick:.0}, \"ratio\": {:.2}, \
         \"accept_per_s\": {:.0}, \"accept_p50_ms\": {:.2}, \"accept_p99_ms\": {:.2}, \"cpu_s_per_1000\": {:.3}, \"peak_mb\": {}}}",
        times.len(),
        rate / yardstick,
        times.len() as f64 / accepted.as_secs_f64(),
        at(&times, 0.5),
        at(&times, 0.99),
        (cpu() - cpu_before) / (times.len() as f64 / 1000.0),
        peak_megabytes(),
    );
    postrider.shutdown(Drain::within(seconds(10))).await.unwrap();
}

/// A relay that never takes anything: what is accepted stays pending.
struct Nowhere;

#[async_trait::async_trait]
impl Transport for Nowhere {
    async fn connect(&self) -> Result<Box<dyn Connection>, postrider::delivery::Outcome> {
        std::future::pending().await
    }
}

async fn accept(count: usize) {
    let dir = tempfile::tempdir_in(".").unwrap();
    let bare = bare_append(&dir.path().join("bare"));
    for callers in [1, 64] {
        let spool = dir.path().join(format!("spool{callers}"));
        let relay = Relay::custom("nowhere", Arc::new(Nowhere)).connections(1);
        let postrider = Dispatcher::builder().relay(relay).spool(spool).start().await.unwrap();
        postrider.pause("nowhere").await.unwrap();
        let count = if callers == 1 { count / 20 } else { count };
        let started = Instant::now();
        let times = submit_all(&postrider, count, callers).await;
        println!(
            "{{\"bench\": \"accept\", \"callers\": {callers}, \"per_s\": {:.0}, \"p50_ms\": {:.3}, \"p99_ms\": {:.3}, \
             \"bare_p50_ms\": {bare:.3}, \"p50_ratio\": {:.2}}}",
            times.len() as f64 / started.elapsed().as_secs_f64(),
            at(&times, 0.5),
            at(&times, 0.99),
            at(&times, 0.5) / bare,
        );
        postrider.shutdown(Drain::within(seconds(10))).await.unwrap();
    }
}

/// The p50 of appending a mail to a file and `fdatasync`, in milliseconds.
fn bare_append(path: &Path) -> f64 {
    let mut file = File::create(path).unwrap();
    let bytes = vec![b'x'; SIZE];
    let mut times: Vec<Duration> = (0..2000)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    at(&times, 0.5)
}

async fn backlog(count: usize) {
    let (_sink, port) = sink();
    let dir = tempfile::tempdir_in(".").unwrap();
    let build = |connections| {
        let relay = Relay::smtp(&format!("smtp://127.0.0.1:{port}")).unwrap().name("sink").connections(connections);
        Dispatcher::builder().relay(relay).spool(dir.path()).max_pending(u64::MAX)
    };
    let postrider = build(64).start().await.unwrap();
    postrider.pause("sink").await.unwrap();
    let started = Instant::now();
    let mut left = count;
    while left > 0 {
        let group = left.min(500);
        let mails: Vec<Mail> = (0..group).map(mail).collect();
        assert!(postrider.submit_many(mails).await.iter().all(Result::is_ok));
        left -= group;
    }
    let filled = started.elapsed();
    postrider.shutdown(Drain::within(seconds(30))).await.unwrap();
    drop(postrider);
    let started = Instant::now();
    let postrider = build(64).start().await.unwrap();
    let mut first = None;
    let measured = count.min(100_000) as u64;
    let mut begun = Instant::now();
    let mut delivered = 0;
    while delivered < measured {
        tokio::time::sleep(Duration::from_millis(2)).await;
        delivered = postrider.delivered();
        if delivered > 0 && first.is_none() {
            first = Some(started.elapsed());
            begun = Instant::now();
        }
    }
    let rate = delivered as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{{\"bench\": \"backlog\", \"pending\": {count}, \"fill_per_s\": {:.0}, \"restart_to_first_delivery_s\": {:.2}, \
         \"deliver_per_s\": {rate:.0}, \"peak_mb\": {}}}",
        count as f64 / filled.as_secs_f64(),
        first.unwrap().as_secs_f64(),
        peak_megabytes(),
    );
    postrider.shutdown(Drain::within(seconds(10))).await.unwrap();
}

/// A relay that answers every burst 50 ms after it came.
async fn round_trip() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sink, sink_port) = sink();
    tokio::spawn(async move {
        let _sink = sink;
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = tokio::net::TcpStream::connect(("127.0.0.1", sink_port)).await.unwrap();
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            tokio::spawn(delayed(near_in, far_out, Duration::from_millis(25)));
            tokio::spawn(delayed(far_in, near_out, Duration::from_millis(25)));
        }
    });
    let relay = Relay::smtp(&format!("smtp://127.0.0.1:{port}")).unwrap().connections(1);
    let postrider = Dispatcher::builder().relay(relay).spool_in_memory().start().await.unwrap();
    let count = 200;
    let started = Instant::now();
    let mails = (0..count).map(|n| mail_of(n, Priority::Default)).collect();
    for receipt in postrider.submit_many(mails).await {
        postrider.wait(receipt.unwrap().id).await.unwrap();
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    println!("{{\"bench\": \"round_trip\", \"delay_ms\": 50, \"connections\": 1, \"per_s\": {rate:.1}}}");
}

fn mail_of(n: usize, priority: Priority) -> Mail {
    let built = Mail::builder().from("bench@example.com").to(format!("user{n}@example.org")).subject("A benchmark");
    built.text("short").priority(priority).build().unwrap()
}

/// Passes bytes on, each so long after it came.
async fn delayed(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, delay: Duration) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 65536];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let _ = sender.send((tokio::time::Instant::now() + delay, buffer[..n].to_vec()));
    }
}
