//! Network specifications, `xl-network-configuration(5)`: a comma list of `KEY=VALUE`.

use super::diagnostic::{Log, Span};
use super::nearest;
use super::options::parts;
use alloc::format;
use alloc::string::String;
use core::fmt;

/// A network port of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// `mac`; made from the domain's name when it is not given.
    pub mac: Mac,
    /// `bridge`.
    pub bridge: Option<String>,
    /// `model`: the emulated card of an HVM domain.
    pub model: Model,
    /// Whether an HVM domain has an emulated card beside the split driver (`type=ioemu`, the default).
    pub emulated: bool,
    /// `ip`, for the bridge's table.
    pub ip: Option<String>,
    /// `rate` in bytes a second; none is no limit.
    pub rate: Option<u64>,
    /// Where the configuration has it, in bytes.
    pub span: Span,
}

impl Nic {
    /// The bridge that is used: the one named, or the first.
    pub fn bridge_name(&self) -> &str {
        self.bridge.as_deref().unwrap_or(FIRST_BRIDGE)
    }
}

/// The bridge of ports that name none, of the uplink and of dom0 itself.
pub const FIRST_BRIDGE: &str = "xenbr0";

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Mac {
    /// Reads six hexadecimal numbers with colons.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| matches!(p.len(), 1 | 2))?;
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+'))?;
        }
        parts.next().is_none().then_some(Self(bytes))
    }

    /// An address in Xen's range (00:16:3e) that is the same at each start of the domain.
    pub fn made(name: &str, index: usize) -> Self {
        // FNV-1a.
        let hash = name
            .bytes()
            .chain((index as u32).to_le_bytes())
            .fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let [a, b, c, _] = hash.to_le_bytes();
        Self([0, 0x16, 0x3e, a & 0x7f, b, c])
    }
}

/// An emulated network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Intel 82540EM.
    E1000,
    /// NE2000 on PCI.
    Ne2000,
}

const KEYS: [&str; 13] = [
    "mac",
    "bridge",
    "model",
    "type",
    "ip",
    "rate",
    "script",
    "vifname",
    "backend",
    "gatewaydev",
    "mtu",
    "devid",
    "trusted",
];
const MODELS: [&str; 3] = ["e1000", "ne2000", "ne2k_pci"];

/// Reads one specification; `None` after an error that it has logged.
pub(super) fn read(text: &str, span: Span, name: &str, index: usize, log: &mut Log<'_>) -> Option<Nic> {
    let mut nic = Nic {
        mac: Mac::made(name, index),
        bridge: None,
        model: Model::E1000,
        emulated: true,
        ip: None,
        rate: None,
        span,
    };
    let mut good = true;
    for part in parts(text, span).filter(|part| !part.text.is_empty()) {
        let Some((key, value)) = part.pair() else {
            good = false;
            let hint = nearest::hint(part.text, KEYS).or_else(|| Some("as in `bridge=xenbr0`".into()));
            log.error(part.span, format!("expected `KEY=VALUE`, found `{}`", part.text), hint);
            continue;
        };
        let mut wrong = |message: String, hint: Option<String>| {
            good = false;
            log.error(value.span, message, hint);
        };
        match key {
            "mac" => match Mac::parse(value.text) {
                Some(Mac(bytes)) if bytes[0] & 1 == 1 => {
                    wrong(
                        format!("`{}` is a group address", value.text),
                        Some("the first byte is even".into()),
                    );
                }
                Some(mac) => nic.mac = mac,
                None => wrong(
                    format!("`{}` is no Ethernet address", value.text),
                    Some("expected six bytes: `00:16:3e:12:34:56`".into()),
                ),
            },
            "bridge" => nic.bridge = Some(value.text.into()).filter(|b: &String| !b.is_empty()),
            "model" => match value.text {
                "e1000" => nic.model = Model::E1000,
                "ne2000" | "ne2k_pci" => nic.model = Model::Ne2000,
                other => wrong(
                    format!("the emulated cards are `e1000` and `ne2000`, not `{other}`"),
                    nearest::hint(other, MODELS),
                ),
            },
            "type" => match value.text {
                "vif" => nic.emulated = false,
                "ioemu" => nic.emulated = true,
                other => wrong(
                    format!("`type` is `vif` or `ioemu`, not `{other}`"),
                    nearest::hint(other, ["vif", "ioemu"]),
                ),
            },
            "ip" => nic.ip = Some(value.text.into()),
            "rate" => match rate(value.text) {
                Some(rate) => nic.rate = Some(rate),
                None => wrong(
                    format!("`{}` is no rate", value.text),
                    Some("expected `10Mb/s` (bits) or `1MB/s` (bytes)".into()),
                ),
            },
            "backend" if matches!(value.text, "0" | "Domain-0") => {}
            "backend" => wrong(
                format!("networks are served by dom0, not by `{}`", value.text),
                Some("leave `backend` out".into()),
            ),
            "script" | "vifname" | "gatewaydev" | "mtu" | "devid" | "trusted" => {
                log.warning(part.span, format!("`{key}` of a network has no effect here"), None);
            }
            _ => {
                good = false;
                log.error(part.span, format!("a network has no option `{key}`"), nearest::hint(key, KEYS));
            }
        }
    }
    good.then_some(nic)
}

/// Bytes a second of `10Mb/s`, `250KB/s`, `1GB/s@20ms`.
fn rate(text: &str) -> Option<u64> {
    let text = text.split('@').next()?;
    let text = text.strip_suffix("/s")?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (scale, bits) = match unit {
        "B" => (1, false),
        "b" => (1, true),
        "KB" => (1_000, false),
        "Kb" => (1_000, true),
        "MB" => (1_000_000, false),
        "Mb" => (1_000_000, true),
        "GB" => (1_000_000_000, false),
        "Gb" => (1_000_000_000, true),
        _ => return None,
    };
    let rate = number.parse::<u64>().ok()?.checked_mul(scale)?;
    Some(if bits { rate / 8 } else { rate }).filter(|&rate| rate > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_addresses() {
        assert_eq!(rate("10Mb/s"), Some(1_250_000));
        assert_eq!(rate("250KB/s@20ms"), Some(250_000));
        assert_eq!(rate("10"), None);
        assert_eq!(rate("0MB/s"), None);
        assert_eq!(Mac::parse("00:16:3e:01:02:0a"), Some(Mac([0, 0x16, 0x3e, 1, 2, 10])));
        assert_eq!(Mac::parse("00:16:3e:01:02"), None);
        assert_eq!(Mac::parse("00:16:3e:01:02:+1"), None);
        assert_ne!(Mac::made("a", 0), Mac::made("a", 1));
    }
}
