//! The child: executes instructions, each with registers of its own, and says what became of them.
//!
//! A signal handler gives the registers of the next case to `sigreturn`, which loads them all at once; every case ends
//! with a signal, by a fault of its own or by the HLT behind it, whose handler sees all registers. The handler touches nothing but the
//! pages that are mapped here and its own stack, and the child ends by `_exit` in it.

#![expect(unsafe_code, reason = "maps pages at fixed addresses, and handles its own faults")]

use std::io::Read;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cases::{CODE, Case, LENGTH, START, WINDOW, WRITABLE};

/// Where the child writes what it executes.
const ALIAS: u64 = 0x2345_6789_a000;

/// How a case ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) gpr: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) flags: u64,
    pub(crate) vector: u64,
    pub(crate) error: u64,
    /// Of a page fault.
    pub(crate) address: u64,
    /// A sum of the window's words.
    pub(crate) memory: u64,
}

impl Verdict {
    pub(crate) const BYTES: usize = 8 * 22;

    fn bytes(&self) -> Vec<u8> {
        let rest = [self.rip, self.flags, self.vector, self.error, self.address, self.memory];
        self.gpr.iter().chain(&rest).flat_map(|value| value.to_le_bytes()).collect()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let word = |n: usize| u64::from_le_bytes(bytes[8 * n..8 * n + 8].try_into().unwrap());
        Self {
            gpr: std::array::from_fn(word),
            rip: word(16),
            flags: word(17),
            vector: word(18),
            error: word(19),
            address: word(20),
            memory: word(21),
        }
    }
}

/// What the window holds when a case begins.
pub(crate) fn content() -> Vec<u64> {
    (0..LENGTH as u64 / 8).map(|n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}

/// The sum by which windows are compared.
pub(crate) fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29))
}

static NEXT: AtomicUsize = AtomicUsize::new(0);
static mut CASES: Vec<Case> = Vec::new();
static mut VERDICTS: Vec<Verdict> = Vec::new();
static mut CONTENT: Vec<u64> = Vec::new();

/// General-purpose registers in encoding order, as the kernel's frame has them.
const REGISTERS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Selectors of Linux for user code and data.
const CODE32: i64 = 0x23;
const CODE64: i64 = 0x33;
const DATA: i64 = 0x2b;

extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // `sigreturn` leaves NT, ID and AC as they are here, and the last case may have set them.
    // SAFETY: flags of a user.
    unsafe { std::arch::asm!("push 0x202", "popfq") };
    // SAFETY: the kernel gives the handler its frame; the statics were filled before the first signal, and signals of
    // this one thread are handled one after the other. `run` has mapped the window and the alias.
    let (registers, cases, verdicts, content, window, code) = unsafe {
        (
            &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs,
            &*ptr::addr_of!(CASES),
            &mut *ptr::addr_of_mut!(VERDICTS),
            &*ptr::addr_of!(CONTENT),
            std::slice::from_raw_parts_mut(WINDOW as *mut u64, LENGTH / 8),
            std::slice::from_raw_parts_mut(ALIAS as *mut u8, 0x1000),
        )
    };
    let mut register = |name: i32, value: Option<u64>| {
        let place = &mut registers[name as usize];
        if let Some(value) = value {
            *place = value as i64;
        }
        *place as u64
    };
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    if let Some(last) = next.checked_sub(1) {
        let vector = register(libc::REG_TRAPNO, None);
        verdicts.push(Verdict {
            gpr: REGISTERS.map(|name| register(name, None)),
            rip: register(libc::REG_RIP, None),
            flags: register(libc::REG_EFL, None),
            vector,
            error: register(libc::REG_ERR, None),
            address: if vector == 14 { register(libc::REG_CR2, None) } else { 0 },
            memory: sum(window),
        });
        let at = (START - CODE) as usize;
        code[at..at + cases[last].code.len()].fill(0xf4);
    }
    let Some(case) = cases.get(next) else {
        let bytes: Vec<u8> = verdicts.iter().flat_map(Verdict::bytes).collect();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // SAFETY: the bytes are there.
            let wrote = unsafe { libc::write(2, rest.as_ptr().cast(), rest.len()) };
            rest = &rest[usize::try_from(wrote).unwrap_or(rest.len())..];
        }
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) }
    };
    window[..WRITABLE / 8].copy_from_slice(&content[..WRITABLE / 8]);
    let at = (START - CODE) as usize;
    code[at..at + case.code.len()].copy_from_slice(&case.code);
    for (name, value) in REGISTERS.into_iter().zip(case.gpr) {
        register(name, Some(value));
    }
    register(libc::REG_RIP, Some(START));
    register(libc::REG_EFL, Some(case.flags));
    let selector = if case.bits == 32 { CODE32 } else { CODE64 };
    register(libc::REG_CSGSFS, Some((selector | DATA << 48) as u64));
}

/// Reads cases from stdin, executes them, writes the verdicts to stderr, and ends the process.
pub(crate) fn run() -> ! {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).unwrap();
    let cases: Vec<Case> = bytes.chunks_exact(Case::BYTES).map(Case::from_bytes).collect();
    let room = Vec::with_capacity(cases.len());
    let stack = vec![0u8; 1 << 18].leak();
    // SAFETY: only this thread uses the statics. The fixed addresses are below all that a position-independent program with
    // its libraries has, and `MAP_FIXED_NOREPLACE` refuses to take anything away. The handler is a function of the kernel's
    // signature, and the stack is never freed.
    unsafe {
        CASES = cases;
        VERDICTS = room;
        CONTENT = content();
        let file = libc::memfd_create(c"code".as_ptr(), 0);
        assert!(file >= 0 && libc::ftruncate(file, 0x1000) == 0);
        let map = |at: u64, length: usize, rights: i32, flags: i32, file: i32| {
            let flags = flags | libc::MAP_FIXED_NOREPLACE;
            let got = libc::mmap(at as *mut _, length, rights, flags, file, 0);
            assert_eq!(got as u64, at, "a page at {at:#x}");
        };
        let both = libc::PROT_READ | libc::PROT_WRITE;
        map(ALIAS, 0x1000, both, libc::MAP_SHARED, file);
        map(CODE, 0x1000, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, file);
        map(WINDOW, LENGTH, both, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        std::slice::from_raw_parts_mut(ALIAS as *mut u8, 0x1000).fill(0xf4);
        std::slice::from_raw_parts_mut(WINDOW as *mut u64, LENGTH / 8).copy_from_slice(&content());
        let end = (WINDOW + WRITABLE as u64) as *mut libc::c_void;
        assert_eq!(libc::mprotect(end, LENGTH - WRITABLE, libc::PROT_READ), 0);

        let alternative =
            libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
        assert_eq!(libc::sigaltstack(&raw const alternative, ptr::null_mut()), 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        for signal in [libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGTRAP] {
            assert_eq!(libc::sigaction(signal, &raw const action, ptr::null_mut()), 0);
        }
        // A case that never ends kills the child.
        libc::alarm(60);
        // Data segments for 32-bit code; the first signal begins.
        std::arch::asm!("mov ds, {0:x}", "mov es, {0:x}", "ud2", in(reg) DATA, options(noreturn));
    }
}
