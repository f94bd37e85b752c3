//! The host: everything the core knows, under one roof. There is one in an image, and as many as a test wants.

use crate::authority::Mint;
use crate::events::Pirqs;
use crate::frames::{DOMAINS, FrameTable, Run};
use crate::journal::Journal;
use crate::prelude::*;
use crate::schedule::Queue;
use crate::timers::Deadlines;

/// What belongs to one physical CPU.
pub struct PerCpu<M: Machine> {
    /// Which.
    pub id: Cpu,
    /// vCPUs that are ready.
    pub queue: Queue<M>,
    /// Timers.
    pub deadlines: Deadlines<M>,
    /// Counts entries and exits: odd while the CPU is in guest mode.
    pub(crate) crossings: AtomicU64,
}

type Slot<M> = Option<Arc<Domain<M>>>;

/// The host.
pub struct Host<M: Machine> {
    /// The hardware.
    pub machine: M,
    /// All frames.
    pub frames: FrameTable,
    /// Domains by number. Held for a moment only, and no other lock is taken inside.
    list: spin::RwLock<Box<[Slot<M>]>>,
    /// Serialises creation and removal of domains.
    pub(crate) creation: Lock<DomainId>,
    cpus: Box<[PerCpu<M>]>,
    /// The domain that has bound each global virtual interrupt, plus one; 0 is none.
    virqs: [AtomicU32; Virq::COUNT as usize],
    /// Physical interrupts.
    pub pirqs: Lock<Pirqs>,
    pub(crate) mint: Mint,
    /// The hypervisor's log.
    pub journal: Journal,
    /// Bytes of RAM in the machine.
    pub memory_bytes: u64,
    /// Of them, bytes that the hypervisor took at boot: image, heap, its own page tables.
    pub hypervisor_bytes: u64,
    /// Domains that are dead but have frames that others hold.
    pub(crate) zombies: AtomicU32,
    /// When the hypervisor was ready to start dom0.
    pub ready: AtomicU64,
    /// Bytes given to dom0, without the bundle.
    pub dom0_bytes: AtomicU64,
    /// How the TSC's ticks become nanoseconds, for guests' clocks.
    pub(crate) clock: TimeInfo,
}

impl<M: Machine> Host<M> {
    /// The host of a machine, with no domains.
    pub fn new(machine: M, boot: &BootInfo<'_>) -> Result<Self, OutOfHeap> {
        let frames = FrameTable::new(boot.ram, boot.free)?;
        let mut id = 0;
        let cpus = boxed(machine.cpus().max(1) as usize, || {
            id += 1;
            PerCpu { id: Cpu(id - 1), queue: Queue::new(), deadlines: Deadlines::new(), crossings: 0.into() }
        })?;
        let pages: u64 = boot.ram.iter().map(|range| range.end.0.saturating_sub(range.start.0)).sum();
        let journal = Journal::new()?;
        journal.keep(boot.log);
        Ok(Self {
            clock: publish::clock(machine.tsc_khz(), machine.tsc_is_stable()),
            machine,
            frames,
            list: spin::RwLock::new(boxed(DOMAINS, || None)?),
            creation: Lock::new(Rank::Domains, DomainId(1)),
            cpus,
            virqs: [const { AtomicU32::new(0) }; Virq::COUNT as usize],
            pirqs: Lock::new(Rank::Interrupts, Pirqs::new()),
            mint: Mint::new(),
            journal,
            memory_bytes: pages << 12,
            hypervisor_bytes: boot.hypervisor_bytes,
            zombies: AtomicU32::new(0),
            ready: AtomicU64::new(0),
            dom0_bytes: AtomicU64::new(0),
        })
    }

    /// The domain with a number, kept alive.
    pub fn domain(&self, id: DomainId) -> Option<Arc<Domain<M>>> {
        self.list.read().get(usize::from(id.0))?.clone()
    }

    /// The first domain at or after a number.
    pub fn domain_from(&self, id: DomainId) -> Option<Arc<Domain<M>>> {
        self.list.read().iter().skip(usize::from(id.0)).flatten().next().cloned()
    }

    /// vCPUs of all domains.
    pub(crate) fn vcpus(&self) -> usize {
        self.list.read().iter().flatten().map(|domain| domain.vcpus.len()).sum()
    }

    /// Enters a new domain. False when the number is taken or out of range.
    pub(crate) fn enlist(&self, domain: Arc<Domain<M>>) -> bool {
        let mut list = self.list.write();
        let slot = list.get_mut(usize::from(domain.id.0)).filter(|slot| slot.is_none());
        slot.map(|slot| *slot = Some(domain)).is_some()
    }

    /// Takes a domain off the list. The returned reference is dropped by the caller, outside the list's lock.
    pub(crate) fn delist(&self, id: DomainId) -> Option<Arc<Domain<M>>> {
        self.list.write().get_mut(usize::from(id.0))?.take()
    }

    /// A physical CPU's part; CPU 0's for a number that does not exist.
    pub fn cpu(&self, cpu: Cpu) -> &PerCpu<M> {
        // There is always a CPU 0.
        self.cpus.get(cpu.0 as usize).unwrap_or(&self.cpus[0])
    }

    /// All CPUs.
    pub fn cpus(&self) -> &[PerCpu<M>] {
        &self.cpus
    }

    /// The CPU a vCPU belongs to.
    pub fn cpu_of(&self, vcpu: &Vcpu<M>) -> &PerCpu<M> {
        self.cpu(vcpu.state.cpu())
    }

    /// System time.
    pub fn now(&self) -> HostTime {
        self.machine.now()
    }

    /// Allocates 2^`order` frames full of zeroes.
    pub fn allocate(&self, order: u32, owner: DomainId, kind: FrameKind) -> Option<Run> {
        self.allocate_some(order, owner, kind, u32::MAX).ok()
    }

    /// As [`Host::allocate`], from frames below `limit`. For boot.
    pub fn allocate_below(&self, order: u32, limit: Mfn, owner: DomainId, kind: FrameKind) -> Option<Run> {
        let run = self.frames.allocate_below(order, limit, owner, kind)?;
        self.frames.scrub_run(run, u32::MAX, |mfn, unused| self.scrub(mfn, unused));
        Some(run)
    }

    /// As [`Host::allocate`], scrubbing at most `budget` frames. [`Errno::Restart`] when more have to be scrubbed: the next
    /// try finds less to do.
    pub fn allocate_some(&self, order: u32, of: DomainId, kind: FrameKind, limit: u32) -> Result<Run, Errno> {
        let run = self.frames.allocate(order, of, kind).ok_or(Errno::NoMem)?;
        if self.frames.scrub_run(run, limit, |mfn, unused| self.scrub(mfn, unused)) {
            return Ok(run);
        }
        self.frames.give_back(run);
        Err(Errno::Restart)
    }

    /// Fills a frame with zeroes; one that nobody has used only when it holds something, because memory that is only read costs an
    /// emulator nothing, and memory that is written the time to make it.
    pub(crate) fn scrub(&self, mfn: Mfn, unused: bool) {
        if let Some(page) = self.machine.page(mfn)
            && !(unused && page.is_zero())
        {
            page.fill_zero();
        }
    }

    /// Makes a CPU that is in guest mode leave it once.
    pub(crate) fn drive_out(&self, cpu: &PerCpu<M>) {
        let crossing = cpu.crossings.load(Ordering::SeqCst);
        if crossing & 1 != 0 {
            self.machine.kick(cpu.id);
            while cpu.crossings.load(Ordering::SeqCst) == crossing {
                core::hint::spin_loop();
            }
        }
    }

    /// One frame full of zeroes.
    pub fn allocate_frame(&self, owner: DomainId, kind: FrameKind) -> Option<Mfn> {
        self.allocate(0, owner, kind).map(|run| run.start)
    }

    /// Where a domain's second-level tables come from.
    pub fn table_pool(&self, owner: DomainId) -> HostTables<'_, M> {
        HostTables { host: self, owner }
    }

    /// Who has bound a global virtual interrupt.
    pub(crate) fn virq_owner(&self, virq: Virq) -> Option<DomainId> {
        let owner = self.virqs.get(virq.0 as usize)?.load(Ordering::Acquire);
        owner.checked_sub(1).map(|id| DomainId(id as u16))
    }

    pub(crate) fn claim_virq(&self, virq: Virq, owner: DomainId) -> Result<(), Errno> {
        let slot = self.virqs.get(virq.0 as usize).ok_or(Errno::Inval)?;
        let claimed = slot.compare_exchange(0, u32::from(owner.0) + 1, Ordering::AcqRel, Ordering::Acquire);
        if claimed.is_ok() { Ok(()) } else { Err(Errno::Busy) }
    }

    pub(crate) fn release_virq(&self, virq: Virq, owner: DomainId) {
        if let Some(slot) = self.virqs.get(virq.0 as usize) {
            let _ = slot.compare_exchange(u32::from(owner.0) + 1, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Takes a byte that a domain prints; whole lines go to the log with its number.
    pub fn print(&self, domain: &Domain<M>, byte: u8) {
        if let Some(line) = domain.debug.lock().push(byte, self.now()) {
            self.say(format_args!("(d{}) {line}", domain.id));
        }
    }

    /// Writes a line to the log and the machine's console, in the form of the boot's lines.
    pub fn say(&self, text: core::fmt::Arguments<'_>) {
        let now = self.now().0 / 1000;
        let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
        self.journal.line(&self.machine, format_args!("{seconds}.{micros:06} info core {text}"));
    }
}

/// Table frames of one domain.
pub struct HostTables<'h, M: Machine> {
    host: &'h Host<M>,
    owner: DomainId,
}

impl<M: Machine> Pages for HostTables<'_, M> {
    fn page(&self, frame: Mfn) -> Option<&SharedPage> {
        self.host.machine.page(frame)
    }
}

impl<M: Machine> TablePool for HostTables<'_, M> {
    fn take(&self) -> Option<Mfn> {
        self.host.allocate_frame(self.owner, FrameKind::Table)
    }

    fn give(&self, frame: Mfn) {
        self.host.frames.put(frame);
    }
}
