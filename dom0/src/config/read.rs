//! From settings to a checked configuration.

use super::diagnostic::{Log, Span};
use super::syntax::{Content, Setting, Value};
use super::{Access, Action, DomainConfig, Hvm, Kind, disk, keys, nearest, vif};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Most vCPUs of a domain.
const VCPUS_MAX: i64 = 32;
/// Least memory in MiB with which a PVH kernel has been seen to start.
const MEMORY_MIN: i64 = 4;
/// Most memory in MiB that is no slip of the keyboard: 1 TiB.
const MEMORY_MAX: i64 = 1 << 20;
/// Longest name in bytes: it becomes part of file names and store paths, and the hypervisor keeps it with a final zero.
const NAME_MAX: usize = 63;

/// The configuration, or `None` when a key without which there is none is missing or wrong.
pub(super) fn domain(settings: &[Setting<'_>], log: &mut Log<'_>) -> Option<DomainConfig> {
    let keys = Keys::collect(settings, log);
    let name = keys.name(log);
    let kind = keys.kind(log);
    let memory = keys.number("memory", MEMORY_MIN, MEMORY_MAX, "MiB", log);
    if memory.is_none() && !keys.has("memory") {
        log.error(log.end(), "`memory` is missing", Some("give it in MiB: `memory = 256`".into()));
    }
    let memory = memory.unwrap_or(MEMORY_MIN) as u64;
    let max_memory_mib = keys.at_least("maxmem", "memory", memory as i64, MEMORY_MAX, "MiB", log) as u64;
    let vcpus = keys.number("vcpus", 1, VCPUS_MAX, "vCPUs", log);
    let maximum = keys.at_least("maxvcpus", "vcpus", vcpus.unwrap_or(1), VCPUS_MAX, "vCPUs", log);
    let vcpus = vcpus.unwrap_or(1);
    let kernel = keys.path("kernel", log);
    let ramdisk = keys.path("ramdisk", log);
    match (kind, &kernel) {
        (Kind::Hvm, Some(_)) => {
            let span = keys.span("kernel");
            log.error(
                span,
                "a domain of type `hvm` boots from its media or firmware and takes no `kernel`",
                Some("remove `kernel`, or say `type = \"pvh\"`".into()),
            );
        }
        (Kind::Pvh, None) if !keys.has("kernel") => {
            log.error(
                log.end(),
                "a domain of type `pvh` needs a `kernel`",
                Some("`kernel = \"/path/vmlinuz\"`".into()),
            );
        }
        _ => {}
    }
    let config = DomainConfig {
        uuid: keys.uuid(log),
        kind,
        memory_mib: memory,
        max_memory_mib,
        vcpus: vcpus as u32,
        max_vcpus: maximum as u32,
        cpus: keys.cpus(log),
        weight: keys.number("cpu_weight", 1, 65535, "", log).unwrap_or(256) as u32,
        cap: keys.number("cap", 0, 100 * VCPUS_MAX, "per cent", log).unwrap_or(0) as u32,
        kernel,
        ramdisk,
        cmdline: keys.cmdline(log),
        disks: keys.disks(log),
        nics: keys.nics(name.as_deref().unwrap_or_default(), log),
        on_poweroff: keys.action("on_poweroff", Action::Destroy, log),
        on_reboot: keys.action("on_reboot", Action::Restart, log),
        on_crash: keys.action("on_crash", Action::Destroy, log),
        hvm: keys.hvm(log),
        name: name?,
    };
    Some(config)
}

/// What is wrong with the name of a domain, if something is.
pub fn wrong_name(name: &str) -> Option<&'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    if name.is_empty() {
        Some("a name has at least one character")
    } else if name.len() > NAME_MAX {
        Some("a name has at most 63 characters")
    } else if !name.chars().all(good) || name.starts_with('.') {
        Some("a name has letters, digits and `-`, `_`, `.`, `+`, and does not begin with `.`")
    } else if name.bytes().all(|b| b.is_ascii_digit()) {
        Some("a name is not a number: domains are also named by number")
    } else if name == "Domain-0" {
        Some("this is the name of dom0")
    } else {
        None
    }
}

struct Entry {
    key_span: Span,
    value: Value,
}

struct Keys(BTreeMap<String, Entry>);

impl Keys {
    fn collect(settings: &[Setting<'_>], log: &mut Log<'_>) -> Self {
        let mut found: BTreeMap<String, Entry> = BTreeMap::new();
        for setting in settings {
            let (key, span) = (setting.key, setting.key_span);
            if !keys::KNOWN.contains(&key) {
                if let Some((_, why)) = keys::REFUSED.iter().find(|(known, _)| *known == key) {
                    log.error(span, format!("`{key}` cannot be used: {why}"), None);
                } else if keys::IGNORED.contains(&key) {
                    let screen =
                        key.starts_with("vnc").then(|| "`trunnion xl vnc NAME` shows the screen".into());
                    log.warning(span, format!("`{key}` has no effect here"), screen);
                } else {
                    log.warning(
                        span,
                        format!("unknown key `{key}`"),
                        nearest::hint(key, keys::KNOWN.iter().copied()),
                    );
                }
                continue;
            }
            if setting.append
                && let Some(entry) = found.get_mut(key)
            {
                match (&mut entry.value.content, &setting.value.content) {
                    (Content::List(all), Content::List(more)) => all.extend(more.iter().cloned()),
                    (Content::Text(all), Content::Text(more)) => all.push_str(more),
                    _ => log.error(
                        setting.value.span,
                        format!("`+=` needs a value of the kind that `{key}` has"),
                        None,
                    ),
                }
                continue;
            }
            let entry = Entry { key_span: span, value: setting.value.clone() };
            if found.insert(key.to_string(), entry).is_some() {
                log.warning(span, format!("`{key}` is given twice; this one counts"), None);
            }
        }
        Self(found)
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn span(&self, key: &str) -> Span {
        self.0.get(key).map(|entry| entry.key_span).unwrap_or_default()
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).map(|entry| &entry.value)
    }

    fn text(&self, key: &str, log: &mut Log<'_>) -> Option<(&str, Span)> {
        let value = self.value(key)?;
        if let Content::Text(text) = &value.content {
            Some((text, value.span))
        } else {
            let hint = match value.content {
                Content::Number(number) => Some(format!("`{key} = \"{number}\"`")),
                _ => None,
            };
            log.error(value.span, format!("`{key}` is a text in quotes"), hint);
            None
        }
    }

    fn path(&self, key: &str, log: &mut Log<'_>) -> Option<String> {
        let (path, span) = self.text(key, log)?;
        if path.is_empty() {
            log.error(span, format!("`{key}` names no file"), None);
            return None;
        }
        Some(path.into())
    }

    /// A number within limits; texts that are numbers count, as they do for Xen.
    fn number(&self, key: &str, least: i64, most: i64, unit: &str, log: &mut Log<'_>) -> Option<i64> {
        let value = self.value(key)?;
        let number = match &value.content {
            Content::Number(number) => Some(*number),
            Content::Text(text) => text.trim().parse().ok(),
            Content::List(_) => None,
        };
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        match number {
            Some(number) if (least..=most).contains(&number) => Some(number),
            Some(number) => {
                log.error(value.span, format!("`{key}` is {least} to {most}{unit}, not {number}"), None);
                None
            }
            None => {
                log.error(value.span, format!("`{key}` is a number from {least} to {most}{unit}"), None);
                None
            }
        }
    }

    /// A maximum: at least what the smaller key says, and the same when it is not given.
    fn at_least(
        &self,
        key: &str,
        smaller: &str,
        least: i64,
        most: i64,
        unit: &str,
        log: &mut Log<'_>,
    ) -> i64 {
        match self.number(key, 1, most, unit, log) {
            Some(number) if number < least => {
                let span = self.value(key).map(|v| v.span).unwrap_or_default();
                log.error(
                    span,
                    format!("`{key}` is {number}, which is less than `{smaller}`, {least}"),
                    None,
                );
                least
            }
            number => number.unwrap_or(least),
        }
    }

    fn flag(&self, key: &str, default: bool, log: &mut Log<'_>) -> bool {
        self.number(key, 0, 1, "", log).map_or(default, |number| number == 1)
    }

    fn name(&self, log: &mut Log<'_>) -> Option<String> {
        if !self.has("name") {
            log.error(log.end(), "`name` is missing", Some("`name = \"guest\"`".into()));
            return None;
        }
        let (name, span) = self.text("name", log)?;
        match wrong_name(name) {
            None => Some(name.into()),
            Some(wrong) => {
                log.error(span, wrong, None);
                None
            }
        }
    }

    fn kind(&self, log: &mut Log<'_>) -> Kind {
        let default = if self.has("kernel") { Kind::Pvh } else { Kind::Hvm };
        let key = if self.has("type") { "type" } else { "builder" };
        match self.text(key, log) {
            None if !self.has(key) && !self.has("kernel") && !self.has("disk") => Kind::Pvh,
            None => default,
            Some(("pvh", _)) => Kind::Pvh,
            Some(("hvm", _)) => Kind::Hvm,
            Some(("generic", _)) if key == "builder" => default,
            Some(("pv", span)) => {
                log.error(
                    span,
                    "domains of type `pv` are not supported: guests run under hardware virtualisation",
                    Some("most kernels that can be `pv` can be `pvh`".into()),
                );
                default
            }
            Some((other, span)) => {
                let hint = nearest::hint(other, ["pvh", "hvm"]);
                log.error(span, format!("`{key}` is `pvh` or `hvm`, not `{other}`"), hint);
                default
            }
        }
    }

    fn uuid(&self, log: &mut Log<'_>) -> Option<[u8; 16]> {
        let (text, span) = self.text("uuid", log)?;
        let digits: Vec<u8> = text.bytes().filter(|&b| b != b'-').collect();
        let mut uuid = [0; 16];
        let good = digits.len() == 32
            && uuid.iter_mut().zip(digits.chunks_exact(2)).all(|(byte, pair)| {
                let value =
                    core::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
                value.map(|value| *byte = value).is_some()
            });
        if !good {
            let hint = Some("as in `\"c0ffee00-0000-4000-8000-000000000001\"`".into());
            log.error(span, format!("`{text}` is no UUID: expected 32 hexadecimal digits"), hint);
        }
        good.then_some(uuid)
    }

    fn cpus(&self, log: &mut Log<'_>) -> Option<Vec<u32>> {
        let value = self.value("cpus")?;
        let mut mask = 0u64;
        let mut good = true;
        match &value.content {
            Content::Number(number) => good = add(&mut mask, *number, *number, true),
            Content::List(list) => {
                for item in list {
                    good &= match &item.content {
                        Content::Number(number) => add(&mut mask, *number, *number, true),
                        Content::Text(text) => ranges(&mut mask, text),
                        Content::List(_) => false,
                    };
                }
            }
            Content::Text(text) if text == "all" => return None,
            Content::Text(text) => good = ranges(&mut mask, text),
        }
        if !good || mask == 0 {
            let hint = Some("as in `\"all\"`, `\"0-3,^1\"` or `[0, 2]`, with numbers below 64".into());
            log.error(value.span, "`cpus` lists physical CPUs", hint);
            return None;
        }
        Some((0..64).filter(|cpu| mask >> cpu & 1 == 1).collect())
    }

    fn cmdline(&self, log: &mut Log<'_>) -> String {
        let cmdline = self.text("cmdline", log).map(|(text, _)| text.to_string());
        let root = self.text("root", log).map(|(text, _)| format!("root={text}"));
        let extra = self.text("extra", log).map(|(text, _)| text.to_string());
        if let Some(cmdline) = cmdline {
            for key in ["root", "extra"].into_iter().filter(|key| self.has(key)) {
                log.warning(self.span(key), format!("`{key}` has no effect beside `cmdline`"), None);
            }
            return cmdline;
        }
        let parts: Vec<String> =
            [root, extra].into_iter().flatten().filter(|part| !part.is_empty()).collect();
        parts.join(" ")
    }

    /// The texts of a list; one text alone counts as a list of one.
    fn texts(&self, key: &str, log: &mut Log<'_>) -> Vec<(String, Span)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let items = match &value.content {
            Content::List(list) => list.as_slice(),
            _ => core::slice::from_ref(value),
        };
        let mut texts = Vec::new();
        for item in items {
            match &item.content {
                Content::Text(text) => texts.push((text.clone(), item.span)),
                _ => log.error(item.span, format!("`{key}` is a list of texts in quotes"), None),
            }
        }
        texts
    }

    fn disks(&self, log: &mut Log<'_>) -> Vec<super::Disk> {
        let texts = self.texts("disk", log);
        let mut disks: Vec<super::Disk> = Vec::new();
        for (text, span) in texts {
            let Some(disk) = disk::read(&text, span, log) else { continue };
            if disks.iter().any(|other| other.vdev.number == disk.vdev.number) {
                log.error(span, format!("`{}` is given to two disks", disk.vdev), None);
            }
            let shared = |other: &&super::Disk| other.target.is_some() && other.target == disk.target;
            let writes =
                |one: &super::Disk| one.access == Access::ReadWrite && one.storage == super::Storage::Device;
            if let Some(other) = disks.iter().find(shared)
                && (writes(&disk) || writes(other))
            {
                let target = disk.target.as_deref().unwrap_or_default();
                log.error(
                    span,
                    format!("`{target}` is given to two disks, and one of them writes"),
                    Some("give both read-only, or copy the image".into()),
                );
            }
            disks.push(disk);
        }
        disks
    }

    fn nics(&self, name: &str, log: &mut Log<'_>) -> Vec<super::Nic> {
        let texts = self.texts("vif", log);
        let mut nics: Vec<super::Nic> = Vec::new();
        for (index, (text, span)) in texts.iter().enumerate() {
            let Some(nic) = vif::read(text, *span, name, index, log) else { continue };
            if nics.iter().any(|other| other.mac == nic.mac) {
                log.error(*span, format!("`{}` is given to two networks", nic.mac), None);
            }
            nics.push(nic);
        }
        nics
    }

    fn action(&self, key: &str, default: Action, log: &mut Log<'_>) -> Action {
        match self.text(key, log) {
            None => default,
            Some(("destroy", _)) => Action::Destroy,
            Some(("restart", _)) => Action::Restart,
            Some(("preserve", _)) => Action::Preserve,
            Some((core @ ("coredump-destroy" | "coredump-restart"), span)) => {
                log.warning(span, "no core file is written; the crash report is in the log", None);
                if core.ends_with("restart") { Action::Restart } else { Action::Destroy }
            }
            Some((other, span)) => {
                log.error(
                    span,
                    format!("`{key}` is `destroy`, `restart` or `preserve`, not `{other}`"),
                    nearest::hint(other, ["destroy", "restart", "preserve"]),
                );
                default
            }
        }
    }

    fn hvm(&self, log: &mut Log<'_>) -> Hvm {
        let default = Hvm::default();
        let text =
            |keys: &Self, key: &str, log: &mut Log<'_>| keys.text(key, log).map(|(text, _)| text.to_string());
        let boot = match self.text("boot", log) {
            Some((boot, _)) if !boot.is_empty() && boot.chars().all(|c| "acdn".contains(c)) => boot.into(),
            Some((boot, span)) => {
                let hint = Some("`c` is the disk, `d` the CD-ROM, `n` the network, `a` the floppy".into());
                log.error(span, format!("`{boot}` is no boot order"), hint);
                default.boot
            }
            None => default.boot,
        };
        if let Some((bios, span)) = self.text("bios", log)
            && !matches!(bios, "seabios" | "ovmf")
        {
            let hint = nearest::hint(bios, ["seabios", "ovmf"]);
            log.error(span, format!("`bios` is `seabios` or `ovmf`, not `{bios}`"), hint);
        }
        Hvm {
            bios: text(self, "bios", log),
            firmware: self.path("firmware_override", log),
            boot,
            serial: self.text("serial", log).is_some_and(|(serial, _)| serial != "none"),
            floppy: self.path("floppy", log),
            vga: text(self, "vga", log),
            platform_device: self.flag("xen_platform_pci", true, log),
            hpet: self.flag("hpet", true, log),
            forced: self.flag("hvm_fep", false, log),
        }
    }
}

fn add(mask: &mut u64, from: i64, to: i64, set: bool) -> bool {
    let good = 0 <= from && from <= to && to < 64;
    if good {
        for cpu in from..=to {
            if set { *mask |= 1 << cpu } else { *mask &= !(1 << cpu) }
        }
    }
    good
}

/// `0-3,^1,5`.
fn ranges(mask: &mut u64, text: &str) -> bool {
    text.split(',').map(str::trim).all(|part| {
        let (set, part) = part.strip_prefix('^').map_or((true, part), |rest| (false, rest));
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        match (from.trim().parse(), to.trim().parse()) {
            (Ok(from), Ok(to)) => add(mask, from, to, set),
            _ => false,
        }
    })
}
