//! A tiny guest that takes each way out of guest mode once (`selftest` on the command line): says whether this processor and
//! the vendor folder agree, without a core above them.

use core::arch::global_asm;
use trunnion_protocol::address::Mfn;
use trunnion_protocol::control::{Gpr, Segment, Table, VcpuState};
use trunnion_protocol::hypercall::page::Opcode;

use super::crash;
use super::page::Block;
use crate::seam::{
    CodeMode, Context, ControlAccess, EntryFormat, Event, Exit, HostInterrupt, HostTime, Machine,
};

global_asm!(
    r#"
    .section .rodata.selftest, "a"
    .global selftest_begin, selftest_real, selftest_end
    .code32
selftest_begin:
    mov eax, 1
    vmmcall                              # patched to the vendor's own
    cmp eax, 0x1234
    jne 9f
    xor eax, eax
    cpuid
    mov edx, 0x80
    mov al, 0x5a
    out dx, al
    in al, dx
    cmp al, 0xa5
    jne 9f
    mov ecx, 0x1b
    rdmsr
    mov eax, dword ptr [0x20000]         # a page that is missing at first
    cmp eax, 0
    jne 9f
    sti
    hlt                                  # an interrupt is injected here
    cmp dword ptr [0x5000], 1
    jne 9f
    cli
    mov ecx, 0x10
    int 0x41                             # a software interrupt needs no exit
    cmp dword ptr [0x5000], 2
    jne 9f
    mov eax, 2                           # asks for an interrupt window
    vmmcall
    nop
    sti
    nop
    nop
    cmp dword ptr [0x5000], 3
    jne 9f
    mov eax, 3                           # the host's timer takes it out of this loop
    vmmcall
2:  cmp dword ptr [0x5004], 0
    je 2b
    ud2
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, 0x6000
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, cr0
    or eax, 0x80000020
    mov cr0, eax
    .byte 0xea                           # jump far to the 64-bit selector
    .long 0x1000 + selftest_long - selftest_begin
    .word 0x18
9:  mov eax, 9
    vmmcall
    .code64
selftest_long:
    mov r15, 0x123456789abcdef0
    mov eax, 4
    vmmcall
    ud2
    .code16
selftest_real:
    mov ax, 0x5678
    mov ds, ax
    mov eax, 5
    vmmcall
    .code32
selftest_handler:
    inc dword ptr [0x5000]
    iretd
selftest_end:
    .code64
    .text
"#
);

unsafe extern "C" {
    static selftest_begin: u8;
    static selftest_real: u8;
    static selftest_end: u8;
}

const CODE: usize = 0x1000;
const HANDLER_BYTES: usize = 7;

struct Guest {
    memory: Block,
    late: Block,
    tables: Block,
    format: &'static EntryFormat,
}

impl Guest {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.memory.bytes()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn map(&mut self, gpa: usize, machine: u64) {
        let format = self.format;
        let all = format.leaf | format.write | format.execute;
        let at = 3 * 4096 + gpa / 4096 * 8;
        self.tables.bytes()[at..at + 8].copy_from_slice(&(machine | all).to_le_bytes());
    }

    fn new(format: &'static EntryFormat, call: [u8; 3]) -> Self {
        let block = |pages| Block::pages(pages).unwrap_or_else(|_| fail("heap", 0));
        let mut guest = Self { memory: block(16), late: block(1), tables: block(4), format };
        let tables = guest.tables.address();
        for level in 0..3u64 {
            let entry = (tables + 4096 * (level + 1)) | format.table;
            let at = 4096 * level as usize;
            guest.tables.bytes()[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
        for page in 0..16 {
            let machine = guest.memory.address() + page * 4096;
            guest.map(page as usize * 4096, machine);
        }
        let begin = &raw const selftest_begin;
        let length = &raw const selftest_end as usize - begin as usize;
        for index in 0..length {
            // SAFETY: the bytes between the two labels.
            guest.memory.bytes()[CODE + index] = unsafe { begin.add(index).read() };
        }
        for index in CODE..CODE + length {
            if guest.memory.bytes()[index..index + 3] == [0x0f, 0x01, 0xd9] {
                guest.put(index, &call);
            }
        }
        let gdt = [0u64, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff];
        for (index, entry) in gdt.iter().enumerate() {
            guest.put(0x3000 + 8 * index, &entry.to_le_bytes());
        }
        let handler = (CODE + length - HANDLER_BYTES) as u64;
        let gate = handler & 0xffff | 8 << 16 | 0x8e00 << 32 | (handler >> 16) << 48;
        guest.put(0x4000 + 8 * 0x41, &gate.to_le_bytes());
        // Long mode: one 2 MiB page.
        guest.put(0x6000, &0x7003u64.to_le_bytes());
        guest.put(0x7000, &0x8003u64.to_le_bytes());
        guest.put(0x8000, &0x83u64.to_le_bytes());
        guest
    }
}

fn fail(what: &str, value: u64) -> ! {
    log::error!("selftest failed step=\"{what}\" value={value:#x}");
    crash::exit(4)
}

/// Runs the guest, and ends the machine: 0 when everything was as it must be.
pub(super) fn run<M: Machine>(machine: &M) -> ! {
    let is_svm = machine.opcode() == Opcode::Vmmcall;
    let (call, other) = if is_svm {
        ([0x0f, 0x01, 0xd9], [0x0f, 0x01, 0xc1])
    } else {
        ([0x0f, 0x01, 0xc1], [0x0f, 0x01, 0xd9])
    };
    let mut guest = Guest::new(machine.format(), call);
    let Ok(mut context) = machine.new_context(false) else { fail("new context", 0) };
    let mut state = VcpuState::pvh(CODE as u32, 0x77);
    state.cs.selector = 8;
    for segment in [&mut state.ds, &mut state.es, &mut state.ss] {
        segment.selector = 0x10;
    }
    state.gdtr = Table { base: 0x3000, limit: 31 };
    state.idtr = Table { base: 0x4000, limit: 0x7ff };
    state.gpr[Gpr::Rsp as usize] = 0xf000;
    context.load(&state);
    if context.save().gpr != state.gpr || context.save().cs != state.cs {
        fail("load and save", 0);
    }
    context.switch_in();
    let root = Mfn(guest.tables.address() >> 12);
    let mut seen = [0u32; 16];
    let mut epoch = 1;
    let mut last = 0;
    for _ in 0..200_000 {
        let exit = machine.enter(&mut context, root, epoch);
        match exit {
            Exit::Hypercall { .. } => {
                last = context.gpr(Gpr::Rax);
                skip(&mut context, 3);
                seen[0] += 1;
                match last {
                    1 => context.set_gpr(Gpr::Rax, 0x1234),
                    2 => context.set_interrupt_window(true),
                    3 => machine.arm(Some(HostTime(machine.now().0 + 1_000_000))),
                    _ => break,
                }
            }
            Exit::Cpuid { .. } => {
                seen[1] += 1;
                skip(&mut context, 2);
            }
            Exit::Port(access) => {
                seen[2] += 1;
                if access.port != 0x80 || access.size != 1 || access.string {
                    fail("port", access.port.into());
                }
                if access.read {
                    let rax = context.gpr(Gpr::Rax);
                    context.set_gpr(Gpr::Rax, rax & !0xff | 0xa5);
                }
                skip(&mut context, access.length.into());
            }
            Exit::Msr { write, .. } => {
                seen[3] += 1;
                if write {
                    context.set_efer(context.gpr(Gpr::Rax));
                }
                skip(&mut context, 2);
            }
            Exit::Memory(fault) => {
                seen[4] += 1;
                if fault.gpa.0 & !0xfff != 0x20000 || fault.write || fault.execute || fault.walk {
                    fail("memory", fault.gpa.0);
                }
                let late = guest.late.address();
                guest.map(0x20000, late);
                epoch += 1;
            }
            Exit::Halt { .. } => {
                seen[5] += 1;
                skip(&mut context, 1);
                let now = context.interruptibility();
                if !now.interrupts_enabled || now.shadow || now.event_set {
                    fail("interruptibility", 0);
                }
                context.inject(Event::Interrupt(0x41));
            }
            Exit::InterruptWindow => {
                seen[6] += 1;
                context.inject(Event::Interrupt(0x41));
            }
            Exit::Interrupt => {
                while let Some(interrupt) = machine.take_interrupt() {
                    if interrupt == HostInterrupt::Timer {
                        seen[7] += 1;
                        guest.put(0x5004, &1u32.to_le_bytes());
                    }
                }
            }
            Exit::Exception { vector: 6, .. } => {
                seen[8] += 1;
                skip(&mut context, 2);
            }
            Exit::ControlRegister { register, access: ControlAccess::Write(value), .. } => {
                context.set_control(register, value);
                skip(&mut context, 3);
            }
            other => unexpected(&context, &other),
        }
    }
    if last != 4 || context.mode() != CodeMode::Bits64 || context.gpr(Gpr::R15) != 0x1234_5678_9abc_def0 {
        fail("long mode", last);
    }
    if seen[..9] != [4, 1, 2, 2, 1, 1, 1, 1, 1] {
        log::error!("selftest exits {seen:?}");
        fail("exits", 0);
    }
    context.switch_out();
    real_mode(machine, &mut guest, &other, root);
    timing(machine, &mut guest, root);
    log::info!("selftest ok exits={:?}", &seen[..9]);
    crash::exit(0)
}

fn skip<C: Context>(context: &mut C, length: u64) {
    context.set_rip(context.rip() + length);
}

fn unexpected<C: Context>(context: &C, exit: &Exit) -> ! {
    log::error!("selftest unexpected {exit:?} rip={:#x} state={:x?}", context.rip(), context.save());
    crash::exit(4)
}

/// A second vCPU in real mode, as after a start-up IPI.
fn real_mode<M: Machine>(machine: &M, guest: &mut Guest, other: &[u8; 3], root: Mfn) {
    let offset = &raw const selftest_real as usize - &raw const selftest_begin as usize;
    let mut state = VcpuState::real_mode(1);
    state.rip = offset as u64;
    let Ok(mut context) = machine.new_context(false) else { fail("new context", 0) };
    context.load(&state);
    context.switch_in();
    let exit = machine.enter(&mut context, root, 1);
    let ds: Segment = context.save().ds;
    if !matches!(exit, Exit::Hypercall { .. })
        || context.gpr(Gpr::Rax) != 5
        || context.mode() != CodeMode::Real
    {
        unexpected(&context, &exit);
    }
    if (ds.selector, ds.base) != (0x5678, 0x56780) {
        fail("real mode segment", ds.base);
    }
    // The other vendor's call instruction is an invalid opcode that leaves the guest.
    let at = CODE + context.rip() as usize;
    guest.put(at, other);
    let exit = machine.enter(&mut context, root, 1);
    if !matches!(exit, Exit::Exception { vector: 6, .. }) {
        unexpected(&context, &exit);
    }
    // A state that no processor takes: both vendors refuse it, and the checker says why.
    let mut broken = state;
    broken.cr0 = 0x8000_0000;
    broken.efer = 0x100;
    context.load(&broken);
    match machine.enter(&mut context, root, 1) {
        Exit::EntryRefused(why) => log::info!(
            "selftest refused-entry field=\"{}\" rule=\"{}\" section=\"{}\" value={:#x} code={:#x}",
            why.field,
            why.rule,
            why.section,
            why.value,
            why.code
        ),
        other => unexpected(&context, &other),
    }
    context.switch_out();
}

/// Ticks for a bare exit and entry: a loop of CPUID.
fn timing<M: Machine>(machine: &M, guest: &mut Guest, root: Mfn) {
    const ROUNDS: u64 = 1000;
    guest.put(0x9000, &[0x0f, 0xa2, 0xeb, 0xfc]);
    let Ok(mut context) = machine.new_context(false) else { fail("new context", 0) };
    context.load(&VcpuState::pvh(0x9000, 0));
    context.switch_in();
    let begin = machine.tsc();
    for _ in 0..ROUNDS {
        match machine.enter(&mut context, root, 1) {
            Exit::Cpuid { .. } => skip(&mut context, 2),
            other => unexpected(&context, &other),
        }
    }
    let ticks = machine.tsc() - begin;
    context.switch_out();
    log::info!("selftest exit-and-entry ticks={}", ticks / ROUNDS);
}
