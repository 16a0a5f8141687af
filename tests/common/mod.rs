//! What several test programs share.

/// Whether this is a run of continuous integration, where a missing adapter, tool or model is a failure and not a notice.
pub fn under_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| !v.is_empty() && v != "false")
}
