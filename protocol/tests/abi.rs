//! Every structure with two layouts, against offsets written down from Xen's headers, and against the rules of C.
//!
//! Expected offsets are text in the form `name@offset:size`, in the order of the fields: 64-bit form first.

use trunnion_protocol::blkif::Response;
use trunnion_protocol::blkif::request::{DiscardForm, Head, Indirect, Request, Segment};
use trunnion_protocol::hypercall::{Hypercall, event, grant, hvm, memory, misc, sched, vcpu, version};
use trunnion_protocol::layout::{FieldSpec, Layout, Width};
use trunnion_protocol::netif;
use trunnion_protocol::shared_info::{Runstate, TimeInfo};

fn form(fields: &[FieldSpec], width: Width) -> String {
    let form = |field: &FieldSpec| {
        let (offset, size) = if width == Width::W64 { field.w64 } else { field.w32 };
        format!("{}@{offset}:{size}", field.name)
    };
    fields.iter().map(form).collect::<Vec<_>>().join(" ")
}

/// What a C compiler makes of the fields: each at the next multiple of its alignment, and the size likewise. `gaps` are
/// explicit paddings: bytes that precede the field of that name (none: the end). A name with a star is the first field of
/// a structure inside, which has the alignment of its largest member.
fn natural(fields: &[FieldSpec], width: Width, gaps: &[(&str, usize)]) -> (String, usize) {
    let (mut at, mut widest, mut out) = (0usize, 1, Vec::new());
    for field in fields {
        let align = if width == Width::W64 { field.align } else { field.align.min(4) };
        let size = if width == Width::W64 { field.w64.1 } else { field.w32.1 };
        at += gaps.iter().filter(|gap| gap.0 == field.name).map(|gap| gap.1).sum::<usize>();
        for gap in gaps.iter().filter(|gap| gap.0.strip_prefix('*') == Some(field.name)) {
            at = at.next_multiple_of(if width == Width::W64 { gap.1 } else { gap.1.min(4) });
        }
        at = at.next_multiple_of(align);
        widest = widest.max(align);
        out.push(format!("{}@{at}:{size}", field.name));
        at += size;
    }
    at += gaps.iter().filter(|gap| gap.0.is_empty()).map(|gap| gap.1).sum::<usize>();
    (out.join(" "), at.next_multiple_of(widest))
}

macro_rules! structures {
    ($($name:path: $size64:literal $fields64:literal, $size32:literal $fields32:literal $(, gaps $gaps:expr)?;)*) => {
        #[test]
        fn offsets_are_those_of_the_headers() {
            $(
                assert_eq!((<$name>::SIZE64, <$name>::SIZE32), ($size64, $size32), stringify!($name));
                assert_eq!(form(<$name>::FIELDS, Width::W64), $fields64, stringify!($name));
                if $fields32 == "=" {
                    assert_eq!(form(<$name>::FIELDS, Width::W32), $fields64, stringify!($name));
                } else {
                    assert_eq!(form(<$name>::FIELDS, Width::W32), $fields32, stringify!($name));
                }
            )*
        }

        #[test]
        fn offsets_are_those_of_a_c_compiler() {
            $(
                #[allow(unused_mut, unused_assignments)]
                let mut gaps: &[(&str, usize)] = &[];
                $(gaps = $gaps;)?
                for width in [Width::W64, Width::W32] {
                    let (fields, size) = natural(<$name>::FIELDS, width, gaps);
                    assert_eq!(form(<$name>::FIELDS, width), fields, "{} {width:?}", stringify!($name));
                    assert_eq!(<$name>::size(width), size, "{} {width:?}", stringify!($name));
                }
            )*
        }

        #[test]
        fn every_form_round_trips() {
            $(
                for width in [Width::W64, Width::W32] {
                    let bytes: Vec<u8> = (1..=255).cycle().take(<$name>::size(width)).collect();
                    let value = <$name>::decode(width, &bytes).unwrap();
                    let mut again = bytes.clone();
                    value.encode(width, &mut again).unwrap();
                    assert_eq!(again, bytes, "{}", stringify!($name));
                    assert_eq!(<$name>::decode(width, &bytes[1..]), None);
                    assert_eq!(value.encode(width, &mut again[1..]), None);
                }
            )*
        }
    };
}

structures! {
    memory::Reservation:
        32 "extents@0:8 count@8:8 order@16:4 flags@20:4 domain@24:2",
        20 "extents@0:4 count@4:4 order@8:4 flags@12:4 domain@16:2";
    memory::AddToPhysmap:
        24 "domain@0:2 size@2:2 space@4:4 index@8:8 gfn@16:8",
        16 "domain@0:2 size@2:2 space@4:4 index@8:4 gfn@12:4";
    memory::MemoryMap: 16 "count@0:4 buffer@8:8", 8 "count@0:4 buffer@4:4";
    memory::SetMemoryMap: 24 "domain@0:2 count@8:4 buffer@16:8", 12 "domain@0:2 count@4:4 buffer@8:4",
        gaps &[("*count", 8)];
    memory::RemoveFromPhysmap: 16 "domain@0:2 gfn@8:8", 8 "domain@0:2 gfn@4:4";
    memory::AddToPhysmapBatch:
        32 "domain@0:2 space@2:2 count@4:2 foreign@6:2 indices@8:8 gfns@16:8 errors@24:8",
        20 "domain@0:2 space@2:2 count@4:2 foreign@6:2 indices@8:4 gfns@12:4 errors@16:4";
    memory::AcquireResource:
        32 "domain@0:2 kind@2:2 id@4:4 count@8:4 first@16:8 list@24:8",
        28 "domain@0:2 kind@2:2 id@4:4 count@8:4 first@16:8 list@24:4",
        gaps &[("first", 4)];

    event::BindInterdomain: 12 "remote@0:2 remote_port@4:4 local_port@8:4", 12 "=";
    event::BindVirq: 12 "virq@0:4 vcpu@4:4 port@8:4", 12 "=";
    event::BindPirq: 12 "pirq@0:4 flags@4:4 port@8:4", 12 "=";
    event::PortArgument: 4 "port@0:4", 4 "=";
    event::Status: 24 "domain@0:2 port@4:4 status@8:4 vcpu@12:4 first@16:4 second@20:4", 24 "=";
    event::AllocUnbound: 8 "domain@0:2 remote@2:2 port@4:4", 8 "=";
    event::BindIpi: 8 "vcpu@0:4 port@4:4", 8 "=";
    event::BindVcpu: 8 "port@0:4 vcpu@4:4", 8 "=";
    event::Reset: 2 "domain@0:2", 2 "=";
    event::InitControl: 24 "gfn@0:8 offset@8:4 vcpu@12:4 link_bits@16:1", 24 "=", gaps &[("", 7)];
    event::ExpandArray: 8 "gfn@0:8", 8 "=";
    event::SetPriority: 8 "port@0:4 priority@4:4", 8 "=";

    grant::Map:
        32 "address@0:8 flags@8:4 reference@12:4 domain@16:2 status@18:2 handle@20:4 bus_address@24:8", 32 "=";
    grant::Unmap: 24 "address@0:8 bus_address@8:8 handle@16:4 status@20:2", 24 "=";
    grant::SetupTable:
        24 "domain@0:2 frames@4:4 status@8:2 list@16:8", 16 "domain@0:2 frames@4:4 status@8:2 list@12:4";
    grant::Copy:
        40 "source@0:8 source_domain@8:2 source_offset@10:2 destination@16:8 destination_domain@24:2 \
            destination_offset@26:2 length@32:2 flags@34:2 status@36:2",
        24 "source@0:4 source_domain@4:2 source_offset@6:2 destination@8:4 destination_domain@12:2 \
            destination_offset@14:2 length@16:2 flags@18:2 status@20:2",
        // The two ends are structures of their own, padded to their alignment.
        gaps &[("*destination", 8), ("*length", 8)];
    grant::QuerySize: 16 "domain@0:2 frames@4:4 limit@8:4 status@12:2", 16 "=";
    grant::Version: 4 "version@0:4", 4 "=";
    grant::GetVersion: 8 "domain@0:2 version@4:4", 8 "=";

    vcpu::RegisterVcpuInfo: 16 "gfn@0:8 offset@8:4", 16 "=", gaps &[("", 4)];
    vcpu::AreaPhysical: 8 "address@0:8", 8 "=";
    vcpu::PeriodicTimer: 8 "period_ns@0:8", 8 "=";
    vcpu::SingleshotTimer: 16 "deadline_ns@0:8 flags@8:4", 12 "=";
    vcpu::HvmContext32:
        128 "mode@0:4 registers@8:32 eip@40:4 eflags@44:4 cr0@48:4 cr3@52:4 cr4@56:4 efer@64:8 bases@72:20 \
             limits@92:20 rights@112:10",
        128 "=",
        gaps &[("registers", 4), ("efer", 4), ("", 6)];
    vcpu::HvmContext64:
        128 "mode@0:4 registers@8:64 rip@72:8 rflags@80:8 cr0@88:8 cr3@96:8 cr4@104:8 efer@112:8",
        128 "=",
        gaps &[("registers", 4), ("", 8)];

    sched::Shutdown: 4 "reason@0:4", 4 "=";
    sched::Poll: 24 "ports@0:8 count@8:4 deadline_ns@16:8", 16 "ports@0:4 count@4:4 deadline_ns@8:8";
    sched::RemoteShutdown: 8 "domain@0:2 reason@4:4", 8 "=";
    sched::Watchdog: 8 "id@0:4 seconds@4:4", 8 "=";

    hvm::ParamArgument: 16 "domain@0:2 index@4:4 value@8:8", 16 "=";
    hvm::PagetableDying: 16 "domain@0:2 gpa@8:8", 16 "=", gaps &[("gpa", 6)];
    hvm::GetMemType: 16 "domain@0:2 kind@2:2 gfn@8:8", 16 "=", gaps &[("gfn", 4)];
    hvm::UpcallVector: 8 "vcpu@0:4 vector@4:1", 8 "=";

    version::FeatureInfo: 8 "index@0:4 submap@4:4", 8 "=";
    version::PlatformParameters: 8 "virt_start@0:8", 4 "virt_start@0:4";
    version::VarBuf: 4 "length@0:4", 4 "=";
    misc::MulticallEntry: 64 "number@0:8 result@8:8 arguments@16:48", 32 "number@0:4 result@4:4 arguments@8:24";

    TimeInfo: 32 "version@0:4 tsc_timestamp@8:8 system_time@16:8 tsc_to_system_mul@24:4 tsc_shift@28:1 flags@29:1",
        32 "=", gaps &[("tsc_timestamp", 4), ("", 2)];
    Runstate: 48 "state@0:4 state_entry_time@8:8 time@16:32", 44 "state@0:4 state_entry_time@4:8 time@12:32";

    Segment: 8 "reference@0:4 first@4:1 last@5:1", 8 "=";
    Head: 24 "operation@0:1 count@1:1 handle@2:2 id@8:8 sector@16:8",
        20 "operation@0:1 count@1:1 handle@2:2 id@4:8 sector@12:8";
    DiscardForm: 32 "operation@0:1 flags@1:1 handle@2:2 id@8:8 sector@16:8 sectors@24:8",
        28 "operation@0:1 flags@1:1 handle@2:2 id@4:8 sector@12:8 sectors@20:8";
    Indirect: 64 "operation@0:1 inner@1:1 count@2:2 id@8:8 sector@16:8 handle@24:2 pages@28:32",
        56 "operation@0:1 inner@1:1 count@2:2 id@4:8 sector@12:8 handle@20:2 pages@24:32";
    Response: 16 "id@0:8 operation@8:1 status@10:2", 12 "id@0:8 operation@8:1 status@10:2";

    netif::TxRequest: 12 "reference@0:4 offset@4:2 flags@6:2 id@8:2 size@10:2", 12 "=";
    netif::TxResponse: 4 "id@0:2 status@2:2", 4 "=";
    netif::RxRequest: 8 "id@0:2 reference@4:4", 8 "=";
    netif::RxResponse: 8 "id@0:2 offset@2:2 flags@4:2 status@6:2", 8 "=";
    netif::ExtraInfo: 8 "kind@0:1 flags@1:1 payload@2:6", 8 "=";
    netif::ControlRequest: 16 "id@0:2 kind@2:2 data@4:12", 16 "=";
    netif::ControlResponse: 12 "id@0:2 kind@2:2 status@4:4 data@8:4", 12 "=";
}

#[test]
fn a_pointer_area_takes_four_of_eight_bytes_in_the_32_bit_form() {
    assert_eq!((vcpu::AreaVirtual::SIZE64, vcpu::AreaVirtual::SIZE32), (8, 8));
    let mut bytes = [0xee; 8];
    vcpu::AreaVirtual { address: trunnion_protocol::address::Gva(0x1234) }
        .encode(Width::W32, &mut bytes)
        .unwrap();
    assert_eq!(bytes, [0x34, 0x12, 0, 0, 0xee, 0xee, 0xee, 0xee]);
}

#[test]
fn requests_are_as_large_as_eleven_segments() {
    assert_eq!((Request::SIZE64, Request::SIZE32), (24 + 11 * 8, 20 + 11 * 8));
}

#[test]
fn numbers_of_calls() {
    let numbers: Vec<u32> = Hypercall::ALL.iter().map(|call| call.number()).collect();
    assert_eq!(
        numbers,
        [
            7, 12, 13, 15, 17, 18, 20, 21, 24, 26, 27, 29, 32, 33, 34, 35, 36, 39, 40, 41, 42, 48, 49, 50,
            51, 52, 53, 54, 55
        ]
    );
    fn consecutive(numbers: impl Iterator<Item = u32>) {
        for (index, number) in numbers.enumerate() {
            assert_eq!(number as usize, index);
        }
    }
    consecutive(event::Op::ALL.iter().map(|op| op.number()));
    consecutive(event::PortState::ALL.iter().map(|op| op.number()));
    consecutive(grant::Op::ALL.iter().map(|op| op.number()));
    consecutive(vcpu::Op::ALL.iter().map(|op| op.number()));
    consecutive(sched::Op::ALL.iter().map(|op| op.number()));
    consecutive(sched::ShutdownReason::ALL.iter().map(|op| op.number()));
    consecutive(version::Op::ALL.iter().map(|op| op.number()));
    consecutive(memory::Space::ALL.iter().map(|op| op.number()));
    let memory: Vec<u32> = memory::Op::ALL.iter().map(|op| op.number()).collect();
    assert_eq!(memory, [0, 1, 2, 3, 4, 6, 7, 9, 13, 14, 15, 16, 17, 23, 28]);
    let hvm: Vec<u32> = hvm::Op::ALL.iter().map(|op| op.number()).collect();
    assert_eq!(hvm, [0, 1, 5, 9, 10, 15, 23, 24, 25]);
}

#[test]
fn memory_map_entries_are_packed() {
    let region = memory::Region { address: trunnion_protocol::address::Gpa(0x1000), length: 0x2000, kind: 1 };
    let bytes = region.to_bytes();
    assert_eq!(bytes[16..], [1, 0, 0, 0]);
    assert_eq!(memory::Region::from_bytes(&bytes), region);
}
