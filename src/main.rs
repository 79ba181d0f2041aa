//! The `postrider` binary: hands the command line to [`postrider::cli`].

fn main() -> std::process::ExitCode {
    postrider::cli::main()
}
