//! The `postrider` binary.

/// A mail takes many small allocations, made by one thread and freed by another, which this
/// allocator handles well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Linux zeroes a whole huge page before its first use. A segment of the spool's log is eight of
    // them, and mail would wait for 6 ms each time that a segment begins. If this call fails, it
    // does.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    postrider::cli::main()
}
