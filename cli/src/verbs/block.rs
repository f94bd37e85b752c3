//! `xl block-list`.

use serde_json::Value;

/// Prints a list of disks.
pub(crate) fn list(disks: &Value, json: bool) {
    if json {
        crate::say::out!("{disks:#}");
        return;
    }
    crate::say::out!(
        "{:<6} {:<6} {:<4} {:<9} {:>9} {:<8} {:>10} {:>10} {:>7}  Target",
        "Vdev",
        "Name",
        "Mode",
        "State",
        "MiB",
        "Backend",
        "Reads",
        "Writes",
        "Errors"
    );
    for disk in disks.as_array().into_iter().flatten() {
        let text = |key: &str| disk[key].as_str().unwrap_or_default();
        let number = |key: &str| disk[key].as_u64().unwrap_or_default();
        let is = |key: &str| disk[key] == Value::Bool(true);
        crate::say::out!(
            "{:<6} {:<6} {:<4} {:<9} {:>9} {:<8} {:>10} {:>10} {:>7}  {}",
            number("number"),
            text("vdev"),
            if is("read_only") { "r" } else { "w" },
            if is("connected") { "connected" } else { "waiting" },
            number("bytes") >> 20,
            if disk["device"].is_string() { "phy" } else { "ram" },
            number("reads"),
            number("writes"),
            number("errors"),
            text("target")
        );
    }
}
