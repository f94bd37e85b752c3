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

/// The assembly that both vendors' entries share. The guest's registers are an array in encoding order without RSP; the one
/// that points to the array is left to the caller.
macro_rules! registers {
    (push host) => {
        ".irp r, rbx, rbp, r12, r13, r14, r15\n push \\r\n .endr"
    };
    (pop host) => {
        ".irp r, r15, r14, r13, r12, rbp, rbx\n pop \\r\n .endr"
    };
    (load guest from rdi) => {
        "mov rcx, [rdi+8]
        mov rdx, [rdi+16]
        mov rbx, [rdi+24]
        mov rbp, [rdi+40]
        mov rsi, [rdi+48]
        .irp n, 8, 9, 10, 11, 12, 13, 14, 15
        mov r\\n, [rdi+8*\\n]
        .endr
        mov rdi, [rdi+56]"
    };
    (save guest to $pointer:literal) => {
        concat!(
            ".irp p, ",
            $pointer,
            "
            mov [\\p+8], rcx
            mov [\\p+16], rdx
            mov [\\p+24], rbx
            mov [\\p+40], rbp
            mov [\\p+48], rsi
            .irp n, 8, 9, 10, 11, 12, 13, 14, 15
            mov [\\p+8*\\n], r\\n
            .endr
            .endr"
        )
    };
}
pub(crate) use registers;
