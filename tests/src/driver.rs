//! The host tool as the tests start it: the same library, built beside them, so that a test never meets an old binary.

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    trunnion_cli::main()
}
