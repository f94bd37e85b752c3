//! Disk specifications, `xl-disk-configuration(5)`: `TARGET, FORMAT, VDEV, ACCESS` by position, `KEY=VALUE`s, flags, and the older `file:TARGET,VDEV,ACCESS`.

use super::diagnostic::{Log, Span};
use super::nearest;
use super::options::{Part, parts};
use alloc::format;
use alloc::string::String;
use core::fmt;

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Path of the image; none is a CD-ROM drive without a disc.
    pub target: Option<String>,
    /// What the guest sees it as.
    pub vdev: VirtualDevice,
    /// Who may write.
    pub access: Access,
    /// What it is.
    pub kind: DiskKind,
    /// Where dom0 keeps it.
    pub storage: Storage,
    /// Whether the guest may discard sectors; by default where the storage can.
    pub discard: bool,
    /// Where the configuration has it, in bytes.
    pub span: Span,
}

/// Whether a disk can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `r`, `ro`.
    ReadOnly,
    /// `w`, `rw`.
    ReadWrite,
}

/// What a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// A disk.
    Disk,
    /// A CD-ROM.
    Cdrom,
}

/// Where dom0 keeps a disk's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A virtio disk of the machine.
    Device,
    /// dom0's memory, filled from the image and never written back (`backendtype=ram`).
    Memory,
}

/// A virtual device: its name, and the number that names it in the store (`xen-vbd-interface(7)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualDevice {
    /// As `xvda`.
    pub name: String,
    /// As 51712.
    pub number: u32,
}

impl fmt::Display for VirtualDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl VirtualDevice {
    /// Reads `xvda`, `xvdb3`, `hdc`, `sda1`, `d2p3`, or the number itself.
    pub fn parse(name: &str) -> Option<Self> {
        let number = Self::number(name)?;
        Some(Self { name: name.into(), number })
    }

    fn number(name: &str) -> Option<u32> {
        if let Some(hex) = name.strip_prefix("0x") {
            return u32::from_str_radix(hex, 16).ok();
        }
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            return name.parse().ok();
        }
        let letters = |rest: &str| -> Option<(u32, u32)> {
            let count = rest.bytes().take_while(u8::is_ascii_lowercase).count();
            let (letters, digits) = rest.split_at_checked(count)?;
            // a is 0, z is 25, aa is 26.
            let disk = letters.bytes().try_fold(0u32, |disk, letter| {
                disk.checked_mul(26)?.checked_add(u32::from(letter - b'a') + 1)
            })?;
            Some((disk.checked_sub(1)?, partition(digits)?))
        };
        let xvd = |disk: u32, part: u32| match (disk, part) {
            (..16, ..16) => Some(202 << 8 | disk << 4 | part),
            (..0x10_0000, ..256) => Some(1 << 28 | disk << 8 | part),
            _ => None,
        };
        if let Some((disk, part)) = name.strip_prefix("xvd").and_then(letters) {
            xvd(disk, part)
        } else if let Some((disk, part)) = name.strip_prefix("hd").and_then(letters) {
            (disk < 4 && part < 64)
                .then_some(if disk < 2 { 3 << 8 } else { 22 << 8 } | (disk & 1) << 6 | part)
        } else if let Some((disk, part)) = name.strip_prefix("sd").and_then(letters) {
            (disk < 16 && part < 16).then_some(8 << 8 | disk << 4 | part)
        } else {
            let rest = name.strip_prefix('d')?;
            let (disk, part) = rest.split_once('p').unwrap_or((rest, ""));
            xvd(disk.parse().ok()?, partition(part)?)
        }
    }
}

fn partition(digits: &str) -> Option<u32> {
    match digits {
        "" => Some(0),
        _ if digits.starts_with('0') => None,
        _ => digits.parse().ok(),
    }
}

const FORMATS: [&str; 6] = ["raw", "qcow", "qcow2", "vhd", "qed", "empty"];
const ACCESSES: [&str; 4] = ["r", "ro", "w", "rw"];
const KEYS: [&str; 16] = [
    "target",
    "format",
    "vdev",
    "access",
    "devtype",
    "backendtype",
    "backend",
    "script",
    "discard",
    "no-discard",
    "cdrom",
    "direct-io-safe",
    "removable",
    "specification",
    "colo",
    "trusted",
];

#[derive(Default)]
struct Draft<'a> {
    target: Option<&'a str>,
    format: Option<Part<'a>>,
    vdev: Option<Part<'a>>,
    access: Option<Part<'a>>,
    cdrom: bool,
    memory: bool,
    discard: Option<bool>,
    wrong: bool,
}

/// Reads one specification; `None` after an error that it has logged.
pub(super) fn read(text: &str, span: Span, log: &mut Log<'_>) -> Option<Disk> {
    let mut draft = Draft::default();
    let mut position = 0;
    let whole = Part { text, span: Span::new(span.start + 1, span.end) };
    let mut target_end = 0;
    for part in parts(text, span) {
        if part.span.start < target_end {
            continue;
        }
        // `target=` takes all that is left up to the next key, so that a path may have commas.
        if let Some(("target", value)) = part.pair() {
            let rest =
                whole.text.get(value.span.start.saturating_sub(whole.span.start)..).unwrap_or(value.text);
            let is_key = |at: usize| {
                let key = rest.get(at + 1..).and_then(|next| next.split_once('=')).map(|(key, _)| key.trim());
                key.is_some_and(|key| KEYS.contains(&key))
            };
            let end = rest.match_indices(',').map(|(at, _)| at).find(|at| is_key(*at)).unwrap_or(rest.len());
            draft.target = rest.get(..end).map(str::trim).filter(|t| !t.is_empty());
            target_end = value.span.start + end;
            continue;
        }
        match part.pair() {
            Some((key, value)) if KEYS.contains(&key) || position > 0 => draft.keyword(key, value, part, log),
            _ if matches!(part.text, "cdrom" | "discard" | "no-discard" | "direct-io-safe") => {
                draft.flag(part.text);
            }
            _ => {
                draft.positional(position, part, log);
                position += 1;
            }
        }
    }
    draft.finish(span, log)
}

impl<'a> Draft<'a> {
    fn fail(&mut self, log: &mut Log<'_>, span: Span, message: String, hint: Option<String>) {
        self.wrong = true;
        log.error(span, message, hint);
    }

    fn flag(&mut self, name: &str) {
        match name {
            "cdrom" => self.cdrom = true,
            "discard" => self.discard = Some(true),
            "no-discard" => self.discard = Some(false),
            _ => {}
        }
    }

    fn positional(&mut self, position: usize, part: Part<'a>, log: &mut Log<'_>) {
        if position == 0 {
            let mut target = part.text;
            for prefix in ["phy:", "file:", "raw:", "tap:", "tap2:", "aio:"] {
                target = target.strip_prefix(prefix).unwrap_or(target);
            }
            self.target = Some(target).filter(|t| !t.is_empty());
            return;
        }
        let looks_like_format = part.text.is_empty() || FORMATS.contains(&part.text);
        if self.format.is_none()
            && self.vdev.is_none()
            && (looks_like_format || VirtualDevice::parse(device_part(part.text)).is_none())
        {
            self.format = Some(part);
            if !looks_like_format {
                let all = FORMATS.into_iter().chain(["xvda"]);
                self.fail(
                    log,
                    part.span,
                    format!("expected a format or a virtual device such as `xvda`, found `{}`", part.text),
                    nearest::hint(part.text, all),
                );
            }
        } else if self.vdev.is_none() {
            self.vdev = Some(part);
        } else if self.access.is_none() {
            self.access = Some(part);
        } else {
            self.fail(
                log,
                part.span,
                format!("nothing was expected after the access, found `{}`", part.text),
                None,
            );
        }
    }

    fn keyword(&mut self, key: &str, value: Part<'a>, part: Part<'a>, log: &mut Log<'_>) {
        match key {
            "format" => self.format = Some(value),
            "vdev" => self.vdev = Some(value),
            "access" => self.access = Some(value),
            "devtype" => match value.text {
                "disk" => {}
                "cdrom" => self.cdrom = true,
                other => self.fail(
                    log,
                    value.span,
                    format!("`devtype` is `disk` or `cdrom`, not `{other}`"),
                    nearest::hint(other, ["disk", "cdrom"]),
                ),
            },
            "backendtype" => match value.text {
                "phy" | "qdisk" | "tap" => {}
                "ram" => self.memory = true,
                other => self.fail(
                    log,
                    value.span,
                    format!("`backendtype` is `phy`, `qdisk`, `tap` or `ram`, not `{other}`"),
                    nearest::hint(other, ["phy", "qdisk", "tap", "ram"]),
                ),
            },
            "backend" if matches!(value.text, "0" | "Domain-0") => {}
            "backend" => self.fail(
                log,
                value.span,
                format!("disks are served by dom0, not by `{}`", value.text),
                Some("leave `backend` out".into()),
            ),
            "script" | "specification" | "removable" | "colo" | "trusted" => {
                log.warning(part.span, format!("`{key}` of a disk has no effect here"), None);
            }
            _ => self.fail(log, part.span, format!("a disk has no option `{key}`"), nearest::hint(key, KEYS)),
        }
    }

    fn finish(mut self, span: Span, log: &mut Log<'_>) -> Option<Disk> {
        let mut empty = false;
        if let Some(format) = self.format.filter(|_| !self.wrong) {
            match format.text {
                "" | "raw" => {}
                "empty" => empty = true,
                known if FORMATS.contains(&known) => self.fail(
                    log,
                    format.span,
                    format!("disks are raw images, not `{known}`"),
                    Some(format!("`qemu-img convert -f {known} -O raw IMAGE NEW` makes one")),
                ),
                other => self.fail(
                    log,
                    format.span,
                    format!("the format of a disk is `raw`, not `{other}`"),
                    nearest::hint(other, FORMATS),
                ),
            }
        }
        let vdev = match self.vdev {
            None => {
                if !self.wrong {
                    self.fail(
                        log,
                        span,
                        "this disk has no virtual device".into(),
                        Some("`'/path/image,raw,xvda,rw'` is the shortest form".into()),
                    );
                }
                None
            }
            Some(part) => {
                if part.text.ends_with(":cdrom") {
                    self.cdrom = true;
                }
                let vdev = VirtualDevice::parse(device_part(part.text));
                if vdev.is_none() {
                    self.fail(
                        log,
                        part.span,
                        format!("`{}` is no virtual device", part.text),
                        Some("expected `xvda`, `hda` or `sda`, with further letters and a partition if need be".into()),
                    );
                }
                vdev
            }
        };
        let access = match self.access.map(|a| (a.text, a.span)) {
            None | Some(("" | "w" | "rw", _)) if !self.cdrom => Access::ReadWrite,
            None | Some(("" | "r" | "ro", _)) => Access::ReadOnly,
            Some(("w" | "rw", at)) => {
                log.warning(at, "a CD-ROM is never written", Some("its access is `ro`".into()));
                Access::ReadOnly
            }
            Some((other, at)) => {
                self.fail(
                    log,
                    at,
                    format!("access is `r`, `ro`, `w` or `rw`, not `{other}`"),
                    nearest::hint(other, ACCESSES),
                );
                Access::ReadOnly
            }
        };
        if !self.wrong && self.target.is_none() && !(self.cdrom || empty) {
            self.fail(
                log,
                span,
                "this disk has no target".into(),
                Some("name an image: `target=/path/image`".into()),
            );
        }
        Some(Disk {
            target: self.target.map(String::from),
            vdev: vdev.filter(|_| !self.wrong)?,
            access,
            kind: if self.cdrom { DiskKind::Cdrom } else { DiskKind::Disk },
            storage: if self.memory { Storage::Memory } else { Storage::Device },
            discard: self.discard.unwrap_or(true),
            span,
        })
    }
}

/// A virtual device without the older forms' `:cdrom` or `:disk`.
fn device_part(text: &str) -> &str {
    text.strip_suffix(":cdrom").or_else(|| text.strip_suffix(":disk")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        for (name, number) in [
            ("xvda", 51712),
            ("xvdb", 51728),
            ("xvda1", 51713),
            ("xvdp15", 51967),
            ("xvdq", 1 << 28 | 16 << 8),
            ("xvdaa", 1 << 28 | 26 << 8),
            ("xvda16", 1 << 28 | 16),
            ("hda", 768),
            ("hdb", 832),
            ("hdc", 5632),
            ("hdd1", 5697),
            ("sda", 2048),
            ("sdb3", 2067),
            ("d2p3", 51747),
            ("51712", 51712),
            ("0xca00", 51712),
        ] {
            assert_eq!(VirtualDevice::parse(name).map(|v| v.number), Some(number), "{name}");
        }
        for name in ["", "xvd", "hde", "sdq", "xvda01", "xvdA", "vda", "d", "xvdzzzzzzzzz", "0x"] {
            assert_eq!(VirtualDevice::parse(name), None, "{name}");
        }
    }
}
