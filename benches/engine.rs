//! `cargo bench --bench engine -- end-to-end` is `postrider bench end-to-end`, and so on; `--help`
//! lists them.
#![allow(missing_docs)]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    postrider::cli::bench()
}
