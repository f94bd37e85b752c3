//! A world of one dom0 and some guests, whose exits a test invents.

use alloc::sync::Arc;
use trunnion_protocol::address::{Gfn, Mfn};
use trunnion_protocol::control::{CreateDomain, Gpr};
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::id::VcpuId;
use trunnion_protocol::shared::SharedPage;

use crate::create;
use crate::domain::Domain;
use crate::exit;
use crate::fake::FakeMachine;
use crate::frames::FrameKind;
use crate::host::Host;
use crate::life;
use crate::seam::{Context, Exit, Machine, Verdict};
use crate::second_level::{Kind, Rights, Run};
use crate::vcpu::Running;

/// A domain of the world.
pub(crate) type Guest = Arc<Domain<FakeMachine>>;

/// One host with dom0, in which tests make guests.
pub(crate) struct World {
    pub(crate) host: Host<FakeMachine>,
    pub(crate) dom0: Guest,
    /// dom0's memory: frames from here on, [`World::DOM0_PAGES`] of them.
    pub(crate) dom0_memory: Mfn,
}

impl World {
    /// Pages of dom0.
    pub(crate) const DOM0_PAGES: u64 = 64;

    /// A host with so many frames.
    pub(crate) fn new(frames: usize) -> Self {
        let machine = FakeMachine::new(frames);
        let ranges = machine.boot_ranges();
        let boot = FakeMachine::boot(&ranges);
        let host = Host::new(machine, &boot).unwrap();
        let dom0 = create::dom0(&host, u64::MAX).unwrap();
        let run = host.allocate(6, dom0.id, FrameKind::Ram).unwrap();
        let pool = host.table_pool(dom0.id);
        let leaf = Run {
            gfn: Gfn(run.start.0),
            mfn: run.start,
            count: Self::DOM0_PAGES,
            rights: Rights::all(),
            kind: Kind::Ram,
        };
        {
            let mut memory = dom0.memory.lock();
            memory.tables.map(&pool, leaf).unwrap();
        }
        Self { host, dom0, dom0_memory: run.start }
    }

    /// A guest with memory at its frames 0 to `pages` - 1, of one vCPU that is up.
    pub(crate) fn guest(&self, pages: u64) -> Guest {
        let wanted = CreateDomain {
            domain: 0,
            flags: 0,
            vcpus: 2,
            max_pages: pages + 16,
            uuid: [1; 16],
            name: create::name("guest"),
        };
        let guest = create::create(&self.host, &wanted).unwrap();
        for page in 0..pages {
            guest.map(&self.host).populate(Gfn(page), 0).unwrap();
        }
        guest
    }

    /// The frame behind a guest's page.
    pub(crate) fn frame(&self, guest: &Guest, gfn: u64) -> Option<Mfn> {
        guest.memory.lock().tables.lookup(&self.host.machine, Gfn(gfn)).map(|leaf| leaf.mfn)
    }

    /// A guest's page.
    pub(crate) fn page(&self, guest: &Guest, gfn: u64) -> &SharedPage {
        self.host.machine.page(self.frame(guest, gfn).unwrap()).unwrap()
    }

    /// Works for a vCPU as its CPU does between an exit and the next entry.
    pub(crate) fn run<R>(
        &self,
        guest: &Guest,
        vcpu: u32,
        work: impl FnOnce(&mut Running<'_, FakeMachine>) -> R,
    ) -> R {
        let vcpu = guest.vcpu(VcpuId(vcpu)).unwrap();
        let mut body = vcpu.body.lock().take().unwrap();
        let result = {
            let body = &mut *body;
            work(&mut Running {
                host: &self.host,
                domain: guest,
                vcpu,
                context: &mut body.context,
                last: &mut body.last,
            })
        };
        *vcpu.body.lock() = Some(body);
        result
    }

    /// A hypercall by 64-bit code with paging off, repeated as long as it continues itself.
    pub(crate) fn call(&self, guest: &Guest, call: Hypercall, arguments: &[u64]) -> i64 {
        self.run(guest, 0, |running| {
            running.context.set_mode(true, 0);
            running.context.state.rip = 0x1000;
            running.context.state.cr0 = 0x11;
            running.context.set_gpr(Gpr::Rax, u64::from(call.number()));
            for (index, register) in [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::R10, Gpr::R8].into_iter().enumerate()
            {
                running.context.set_gpr(register, arguments.get(index).copied().unwrap_or(0));
            }
            for _ in 0..10_000 {
                let verdict = exit::handle(running, &Exit::Hypercall);
                if running.context.rip() != 0x1000 {
                    return running.context.gpr(Gpr::Rax) as i64;
                }
                assert_eq!(verdict, Verdict::Resume, "a call that continues itself");
            }
            panic!("a hypercall that never ends");
        })
    }

    /// Destroys a guest, step by step. What others still hold stays.
    pub(crate) fn destroy(&self, guest: Guest) {
        for _ in 0..1000 {
            if life::destroy_step(&self.host, &guest).unwrap() {
                drop(guest);
                return;
            }
        }
        panic!("a destruction that never ends");
    }
}
