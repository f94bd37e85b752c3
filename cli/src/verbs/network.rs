//! `xl network-list`.

use serde_json::Value;

/// Prints a list of network ports.
pub(crate) fn list(nics: &Value, json: bool) {
    if json {
        crate::say::out!("{nics:#}");
        return;
    }
    crate::say::out!(
        "{:>3} {:<17}  {:<12} {:<9} {:>12} {:>14} {:>12} {:>14} {:>8}",
        "Idx",
        "MAC Addr.",
        "Bridge",
        "State",
        "RX packets",
        "RX bytes",
        "TX packets",
        "TX bytes",
        "Dropped"
    );
    for nic in nics.as_array().into_iter().flatten() {
        let text = |key: &str| nic[key].as_str().unwrap_or_default().to_string();
        let number = |key: &str| nic[key].as_u64().unwrap_or_default();
        let state = if nic["connected"] == Value::Bool(true) { "connected" } else { "waiting" };
        crate::say::out!(
            "{:>3} {:<17}  {:<12} {state:<9} {:>12} {:>14} {:>12} {:>14} {:>8}",
            number("number"),
            text("mac"),
            text("bridge"),
            number("rx_packets"),
            number("rx_bytes"),
            number("tx_packets"),
            number("tx_bytes"),
            number("dropped")
        );
    }
}
