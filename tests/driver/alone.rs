//! Tests that want a driver of another kind, or break it.

use std::process::Command;

/// Runs `body` in a process of its own, with these variables set. `test` is the path of the test
/// that calls this.
#[track_caller]
pub fn alone(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    const MARK: &str = "INFER_KERNELS_ALONE";
    if std::env::var(MARK).is_ok_and(|running| running == test) {
        return body();
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env(MARK, test)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{test} failed alone:\n{text}\n{errors}"
    );
    assert!(
        text.contains("1 passed"),
        "{test} is no test's name:\n{text}"
    );
}
