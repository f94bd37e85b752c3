//! The bundle: one module, a cpio archive ("newc") of dom0 and everything that dom0 needs.
//!
//! The core reads one member of it; the rest belongs to dom0.

const HEADER: usize = 110;

/// The bytes of the member `name`; `None` when the archive is no archive or has no such member.
pub fn member<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = archive;
    loop {
        let header = rest.get(..HEADER)?;
        if header.get(..6)? != b"070701" {
            return None;
        }
        let field = |index: usize| {
            let digits = header.get(6 + index * 8..14 + index * 8)?;
            usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let name_end = HEADER.checked_add(name_size)?;
        let found = rest.get(HEADER..name_end.checked_sub(1)?)?;
        let data = name_end.checked_next_multiple_of(4)?;
        let end = data.checked_add(size)?;
        if found == b"TRAILER!!!" {
            return None;
        }
        if found == name.as_bytes() {
            return rest.get(data..end);
        }
        rest = rest.get(end.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, data) in members.iter().chain(&[("TRAILER!!!", &b""[..])]) {
            let mut fields = [0u32; 13];
            fields[6] = data.len() as u32;
            fields[11] = name.len() as u32 + 1;
            out.extend(b"070701");
            for field in fields {
                out.extend(format!("{field:08x}").bytes());
            }
            out.extend(name.bytes());
            out.push(0);
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend(*data);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    #[test]
    fn members_are_found() {
        let bytes = archive(&[("config", b"12345"), ("dom0", b"\x7fELF"), ("kernels/0", b"")]);
        assert_eq!(member(&bytes, "dom0"), Some(&b"\x7fELF"[..]));
        assert_eq!(member(&bytes, "kernels/0"), Some(&b""[..]));
        assert_eq!(member(&bytes, "dom"), None);
    }

    #[test]
    fn damage_is_no_panic() {
        let bytes = archive(&[("config", b"12345"), ("dom0", b"\x7fELF")]);
        for cut in 0..bytes.len() {
            let found = member(&bytes[..cut], "dom0");
            assert!(found.is_none() || found == Some(b"\x7fELF"));
        }
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] = b'f';
            let _ = member(&broken, "dom0");
        }
    }
}
