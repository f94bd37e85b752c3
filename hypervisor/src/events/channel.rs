//! The word of a port, and a domain's ports.

use crate::prelude::*;

/// What a port is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Channel {
    /// Free.
    Free,
    /// Open for one domain to join.
    Unbound(DomainId),
    /// Joined to a port of a domain.
    Interdomain(DomainId, Port),
    /// A physical interrupt.
    Pirq(Pirq),
    /// A virtual interrupt.
    Virq(Virq),
    /// Between vCPUs of the domain.
    Ipi,
}

/// The word: kind in bits 0 to 3, vCPU in 4 to 15, domain in 16 to 31, port or interrupt in 32 to 63.
const VCPU_SHIFT: u32 = 4;
const VCPU_MASK: u64 = 0xfff << VCPU_SHIFT;

impl Channel {
    const fn encode(self, vcpu: VcpuId) -> u64 {
        let (kind, domain, value) = match self {
            Self::Free => (0, 0, 0),
            Self::Unbound(DomainId(domain)) => (1, domain, 0),
            Self::Interdomain(DomainId(domain), Port(port)) => (2, domain, port),
            Self::Pirq(Pirq(pirq)) => (3, 0, pirq),
            Self::Virq(Virq(virq)) => (4, 0, virq),
            Self::Ipi => (5, 0, 0),
        };
        kind | (vcpu.0 as u64 & 0xfff) << VCPU_SHIFT | (domain as u64) << 16 | (value as u64) << 32
    }

    const fn decode(word: u64) -> (Self, VcpuId) {
        let (domain, value) = (DomainId((word >> 16) as u16), (word >> 32) as u32);
        let channel = match word & 0xf {
            1 => Self::Unbound(domain),
            2 => Self::Interdomain(domain, Port(value)),
            3 => Self::Pirq(Pirq(value)),
            4 => Self::Virq(Virq(value)),
            5 => Self::Ipi,
            _ => Self::Free,
        };
        (channel, VcpuId(((word & VCPU_MASK) >> VCPU_SHIFT) as u32))
    }
}

const CHUNK: usize = 128;
/// Most ports a domain has: those of the 64-bit form.
const LIMIT: usize = event::ports(Width::W64) as usize;

type Chunk = Box<[AtomicU64]>;

/// A domain's ports. Their words come into being in chunks as they are allocated and stay until the domain goes.
pub struct Ports {
    chunks: [spin::Once<Chunk>; LIMIT / CHUNK],
    /// Serialises allocation. Holds one past the highest port ever used, so that scans are short.
    pub(super) allocation: Lock<u32>,
    /// vCPUs that wait in `SCHEDOP_poll`, a bit each.
    pub pollers: AtomicU32,
}

impl Ports {
    /// With no port in use.
    pub(crate) const fn new() -> Self {
        Self {
            chunks: [const { spin::Once::new() }; LIMIT / CHUNK],
            allocation: Lock::new(Rank::Ports, 1),
            pollers: AtomicU32::new(0),
        }
    }

    fn word(&self, port: Port) -> Option<&AtomicU64> {
        let index = port.0 as usize;
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    /// What a port is, and which vCPU receives it. A port that never was is free.
    pub fn get(&self, port: Port) -> (Channel, VcpuId) {
        self.word(port)
            .map_or((Channel::Free, VcpuId(0)), |word| Channel::decode(word.load(Ordering::Acquire)))
    }

    /// Sets a port. The caller has allocated it under the lock.
    pub(super) fn set(&self, port: Port, channel: Channel, vcpu: VcpuId) {
        if let Some(word) = self.word(port) {
            word.store(channel.encode(vcpu), Ordering::Release);
        }
    }

    /// Frees a port and returns what it was.
    pub(super) fn take(&self, port: Port) -> Channel {
        self.word(port).map_or(Channel::Free, |word| Channel::decode(word.swap(0, Ordering::AcqRel)).0)
    }

    /// Changes what a port is if it still is `from`, keeping its vCPU.
    pub(super) fn replace(&self, port: Port, from: Channel, to: Channel) -> bool {
        let Some(word) = self.word(port) else { return false };
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            let (channel, vcpu) = Channel::decode(old);
            (channel == from).then(|| to.encode(vcpu))
        })
        .is_ok()
    }

    /// Changes the vCPU of a port that is in use.
    pub(super) fn set_vcpu(&self, port: Port, vcpu: VcpuId) {
        if let Some(word) = self.word(port) {
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                let (channel, _) = Channel::decode(old);
                (channel != Channel::Free).then(|| channel.encode(vcpu))
            });
        }
    }

    /// The lowest free port below `limit`, with its word in place. `used` is the content of the allocation lock.
    pub(super) fn find_free(&self, used: &mut u32, limit: u32) -> Option<Port> {
        let port =
            (1..*used).map(Port).find(|&port| self.get(port).0 == Channel::Free).unwrap_or(Port(*used));
        if port.0 >= limit {
            return None;
        }
        let chunk = self.chunks.get(port.0 as usize / CHUNK)?;
        if chunk.get().is_none() {
            let words = boxed(CHUNK, AtomicU64::default).ok()?;
            chunk.call_once(|| words);
        }
        *used = (*used).max(port.0 + 1);
        Some(port)
    }

    /// One past the highest port that ever was in use.
    pub fn end(&self) -> u32 {
        *self.allocation.lock()
    }

    /// Ports that are not free.
    pub fn in_use(&self) -> u64 {
        (1..self.end()).filter(|&port| self.get(Port(port)).0 != Channel::Free).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_everything() {
        for channel in [
            Channel::Free,
            Channel::Unbound(DomainId(0x7fef)),
            Channel::Interdomain(DomainId(3), Port(4095)),
            Channel::Pirq(Pirq(63)),
            Channel::Virq(Virq(23)),
            Channel::Ipi,
        ] {
            assert_eq!(Channel::decode(channel.encode(VcpuId(31))), (channel, VcpuId(31)));
        }
    }

    #[test]
    fn the_lowest_free_port_is_given() {
        let ports = Ports::new();
        let mut used = ports.allocation.lock();
        for expected in 1..400 {
            let port = ports.find_free(&mut used, 4096).unwrap();
            assert_eq!(port, Port(expected));
            ports.set(port, Channel::Ipi, VcpuId(0));
        }
        ports.take(Port(7));
        assert_eq!(ports.find_free(&mut used, 4096), Some(Port(7)));
        ports.set(Port(7), Channel::Ipi, VcpuId(0));
        assert_eq!(ports.find_free(&mut used, 400), None, "the width's limit");
        assert_eq!(ports.get(Port(5000)).0, Channel::Free);
    }
}
