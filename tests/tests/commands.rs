//! The other commands of the binary, as a user runs them.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::daemon::triaged;
use e2e::peers::run_ok;

#[test]
fn the_demo_shows_an_outcome_and_what_the_console_received() {
    let said = run_ok(&mut triaged(&["demo", "--once", "--slices", "24"]));
    assert!(
        said.lines().any(|line| line.starts_with("FLAGGED") || line.starts_with("NOT FLAGGED")),
        "{said}"
    );
    assert!(said.contains("console    received"), "{said}");
}
