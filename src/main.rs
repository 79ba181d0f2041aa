//! The `postrider` binary.

/// A mail is many small allocations, made by one thread and freed by another: this allocator is
/// good at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Linux clears a huge page whole before its first byte is used. A segment of the spool's log is
    // eight of them, and mail would wait for 6 ms each time that one begins. If it cannot be had,
    // that is what happens.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    postrider::cli::main()
}
