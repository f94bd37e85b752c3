//! Descriptor tables: GDT, TSS with stacks for the traps that must not use the current one, IDT.

use core::cell::UnsafeCell;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

use super::trap::Gate;

/// The code selector of the host.
pub const CODE: u16 = 8;
/// The data selector of the host.
pub const DATA: u16 = 16;
/// The task register's selector.
pub const TSS: u16 = 24;
const STACK: usize = 8 << 10;

#[repr(C, align(16))]
struct Stack([u8; STACK]);

struct Inner {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
    stacks: [Stack; 3],
}

/// One CPU's tables.
pub struct Tables(UnsafeCell<Inner>);

static IDT: spin::Once<[Gate; 256]> = spin::Once::new();

impl Tables {
    #[expect(clippy::large_stack_arrays, reason = "evaluated for a static, never on a stack")]
    pub(super) const fn new() -> Self {
        Self(UnsafeCell::new(Inner {
            gdt: GlobalDescriptorTable::empty(),
            tss: TaskStateSegment::new(),
            stacks: [const { Stack([0; STACK]) }; 3],
        }))
    }

    /// Builds and loads them on the running CPU.
    ///
    /// # Safety
    /// Once for each CPU, by that CPU, before anything else uses its tables; `self` lives for ever.
    pub unsafe fn load(&'static self) {
        // SAFETY: the caller is alone with these tables.
        let inner = unsafe { &mut *self.0.get() };
        let mut stacks = [VirtAddr::zero(); 7];
        for (slot, stack) in stacks.iter_mut().zip(&inner.stacks) {
            *slot = VirtAddr::new(core::ptr::from_ref(stack) as u64 + STACK as u64);
        }
        inner.tss.interrupt_stack_table = stacks;
        inner.gdt.append(Descriptor::kernel_code_segment());
        inner.gdt.append(Descriptor::kernel_data_segment());
        // SAFETY: the TSS is part of `self`, which lives for ever.
        inner.gdt.append(unsafe { Descriptor::tss_segment_unchecked(&raw const inner.tss) });
        // SAFETY: the table is never written again, but for the busy bit that the CPU sets itself.
        let inner = unsafe { &*self.0.get() };
        inner.gdt.load();
        // SAFETY: the selectors are those of the table just loaded.
        unsafe {
            CS::set_reg(SegmentSelector(CODE));
            SS::set_reg(SegmentSelector(DATA));
            DS::set_reg(SegmentSelector(DATA));
            ES::set_reg(SegmentSelector(DATA));
            load_tss(SegmentSelector(TSS));
        }
        let idt = IDT.call_once(super::trap::table);
        let pointer = DescriptorTablePointer { limit: 4095, base: VirtAddr::from_ptr(idt) };
        // SAFETY: the table lives for ever, and its gates lead to stubs that end in `iretq` or never return.
        unsafe { lidt(&pointer) };
    }

    /// Addresses of the GDT and the TSS, for the host half of a control block.
    pub fn addresses(&self) -> (u64, u64) {
        let inner = self.0.get();
        // SAFETY: only addresses are taken; `load` has finished before a guest runs.
        unsafe {
            (inner.as_ref().map_or(0, |i| i.gdt.entries().as_ptr() as u64), &raw const (*inner).tss as u64)
        }
    }
}

/// The IDT's address.
pub fn idt_address() -> u64 {
    IDT.get().map_or(0, |idt| core::ptr::from_ref(idt) as u64)
}
