//! Random conversations: what is asked, as the model and as the wire have it.

use trunnion_protocol::store::Kind;

/// A seeded generator (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Read(String),
    Directory(String),
    GetPerms(String),
    Write(String, Vec<u8>),
    Mkdir(String),
    Rm(String),
    SetPerms(String, Vec<(char, u16)>),
    Watch(String, String, Option<usize>),
    Unwatch(String, String),
    Start,
    End(bool),
    Reset,
    IsIntroduced(u16),
    SetTarget(u16, u16),
}

fn path(random: &mut Random) -> String {
    let bad = ["", "//", "/a/", "a//b", "/a.b", "/a b", "@nothing", "/a/b/"];
    match random.below(40) {
        0 => (*random.pick(&bad)).into(),
        1 => "/".into(),
        2 => (*random.pick(&["@introduceDomain", "@releaseDomain"])).into(),
        _ => {
            let mut path = match random.below(4) {
                0 => String::new(),
                1 | 2 => "/".to_owned(),
                _ => format!("/local/domain/{}/", 1 + random.below(3)),
            };
            for level in 0..=random.below(3) {
                if level > 0 {
                    path.push('/');
                }
                path.push(*random.pick(&['a', 'b', 'c']));
            }
            path
        }
    }
}

impl Op {
    pub(crate) fn random(random: &mut Random) -> Self {
        match random.below(34) {
            0..=3 => Self::Read(path(random)),
            4 | 5 => Self::Directory(path(random)),
            6 | 7 => Self::GetPerms(path(random)),
            8..=13 => {
                let length = if random.below(8) == 0 { 150 + random.below(60) } else { random.below(4) };
                let value = (0..length).map(|_| random.next() as u8).collect();
                Self::Write(path(random), value)
            }
            14 | 15 => Self::Mkdir(path(random)),
            16..=18 => Self::Rm(path(random)),
            19..=22 => {
                let mut entry = || (*random.pick(&['n', 'r', 'w', 'b']), random.below(4) as u16);
                let count = [1, 1, 2, 2, 3, 4][(entry().1 as usize + entry().1 as usize) % 6];
                let perms = (0..count).map(|_| entry()).collect();
                Self::SetPerms(path(random), perms)
            }
            23..=25 => {
                let depth = (random.below(3) == 0).then(|| random.below(3));
                Self::Watch(path(random), (*random.pick(&["t", "u"])).into(), depth)
            }
            26 => Self::Unwatch(path(random), (*random.pick(&["t", "u"])).into()),
            27..=29 => Self::Start,
            30 | 31 => Self::End(random.below(4) > 0),
            32 => match random.below(8) {
                0 => Self::Reset,
                1 => Self::SetTarget(random.below(4) as u16, random.below(4) as u16),
                _ => Self::IsIntroduced(random.below(5) as u16),
            },
            _ => Self::End(true),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Read(_) => Kind::Read,
            Self::Directory(_) => Kind::Directory,
            Self::GetPerms(_) => Kind::GetPerms,
            Self::Write(..) => Kind::Write,
            Self::Mkdir(_) => Kind::Mkdir,
            Self::Rm(_) => Kind::Rm,
            Self::SetPerms(..) => Kind::SetPerms,
            Self::Watch(..) => Kind::Watch,
            Self::Unwatch(..) => Kind::Unwatch,
            Self::Start => Kind::TransactionStart,
            Self::End(_) => Kind::TransactionEnd,
            Self::Reset => Kind::ResetWatches,
            Self::IsIntroduced(_) => Kind::IsDomainIntroduced,
            Self::SetTarget(..) => Kind::SetTarget,
        }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        let text = match self {
            Self::Read(path)
            | Self::Directory(path)
            | Self::GetPerms(path)
            | Self::Mkdir(path)
            | Self::Rm(path) => {
                format!("{path}\0")
            }
            Self::Write(path, value) => return [path.as_bytes(), b"\0", value].concat(),
            Self::SetPerms(path, perms) => {
                let entries: Vec<_> =
                    perms.iter().map(|(letter, domain)| format!("{letter}{domain}\0")).collect();
                format!("{path}\0{}", entries.concat())
            }
            Self::Watch(path, token, None) | Self::Unwatch(path, token) => format!("{path}\0{token}\0"),
            Self::Watch(path, token, Some(depth)) => format!("{path}\0{token}\0{depth}\0"),
            Self::Start | Self::Reset => "\0".into(),
            Self::End(commit) => if *commit { "T\0" } else { "F\0" }.into(),
            Self::IsIntroduced(domain) => format!("{domain}\0"),
            Self::SetTarget(domain, target) => format!("{domain}\0{target}\0"),
        };
        text.into_bytes()
    }
}
