//! What a CPU keeps for switching to and from guests: address-space tags, and the vendor's own pages.

use core::cell::Cell;

/// One CPU's switch data. Touched by that CPU alone, with interrupts off.
pub struct Switch {
    /// Goes up whenever tags are used up and handed out anew.
    pub generation: Cell<u64>,
    /// The next tag (ASID or VPID).
    next: Cell<u32>,
    /// One past the highest tag the processor has.
    limit: Cell<u32>,
    /// SVM: the page with the host's half of what VMLOAD loads. VMX: the VMXON region.
    pub host_page: Cell<u64>,
}

impl Switch {
    pub(super) const fn new() -> Self {
        Self { generation: Cell::new(1), next: Cell::new(1), limit: Cell::new(2), host_page: Cell::new(0) }
    }

    /// Says how many tags the processor has; 0 belongs to the host.
    pub fn set_tags(&self, count: u32) {
        self.limit.set(count.max(2));
    }

    /// A tag that no translation carries, and whether all translations of guests must be flushed for that to be true.
    pub fn new_tag(&self) -> (u32, bool) {
        let tag = self.next.get();
        if tag < self.limit.get() {
            self.next.set(tag + 1);
            return (tag, false);
        }
        self.generation.set(self.generation.get() + 1);
        self.next.set(2);
        (1, true)
    }
}
