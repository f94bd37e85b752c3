//! The definition block: the bus and how its interrupts are wired, the devices that no bus tells of, how to switch off.
//!
//! Kept to what `SeaBIOS` reads too: it looks here for the keyboard, the serial ports and the floppy controller.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, CreateDWordField, Device, EISAName, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, LessThan, Memory32Fixed, Method, Name, OpRegion,
    OpRegionSpace, Or, PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::{Description, PM_PORTS, SCI};
use crate::{hpet, pm};

/// First I/O APIC input of the PCI lines.
const PCI_INPUT: u8 = 16;
/// The device number of the bridge and of power management.
const PIIX: u8 = 1;
/// The router's bit that switches a line off (82371SB, 2.3.5).
const OFF: u8 = 0x80;
/// The links between PCI lines A to D and ISA lines, and the router's registers behind them.
const LINKS: [(&str, &str); 4] = [
    ("\\_SB_.LNKA", "\\_SB_.PCI0.ISA_.PRQA"),
    ("\\_SB_.LNKB", "\\_SB_.PCI0.ISA_.PRQB"),
    ("\\_SB_.LNKC", "\\_SB_.PCI0.ISA_.PRQC"),
    ("\\_SB_.LNKD", "\\_SB_.PCI0.ISA_.PRQD"),
];

/// Finished AML.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// The terms of the block.
pub(super) fn body(pc: &Description) -> Vec<u8> {
    let mut body = Vec::new();
    // 0: the 8259s, 1: I/O APICs.
    Name::new("PICF".into(), &ZERO).to_aml_bytes(&mut body);
    let mode: Path = "PICF".into();
    Method::new("_PIC".into(), 1, false, vec![&Store::new(&mode, &Arg(0))]).to_aml_bytes(&mut body);
    let mut parts = vec![bus(pc)];
    parts.extend(
        LINKS.into_iter().zip(1..).map(|((link, register), number)| self::link(link, register, number)),
    );
    if pc.hpet {
        let registers = Memory32Fixed::new(true, hpet::BASE as u32, hpet::SIZE as u32);
        parts.push(device("HPET", "PNP0103", 0, &[&registers]));
    }
    parts.extend((0..pc.cpus).map(processor));
    Scope::new("\\_SB_".into(), parts.iter().map(|part| -> &dyn Aml { part }).collect())
        .to_aml_bytes(&mut body);
    // The types of sleep that the board knows as being off.
    let mut off = PackageBuilder::new();
    (0..4).for_each(|_| off.add_element(&ZERO));
    Name::new("\\_S5_".into(), &off).to_aml_bytes(&mut body);
    body
}

fn finished(aml: &dyn Aml) -> Raw {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    Raw(bytes)
}

fn template(resources: &[&dyn Aml]) -> Raw {
    finished(&ResourceTemplate::new(resources.to_vec()))
}

/// A device that is always there.
fn device(name: &str, id: &str, number: u8, resources: &[&dyn Aml]) -> Raw {
    finished(&Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new("_UID".into(), &number),
            &Name::new("_CRS".into(), &template(resources)),
        ],
    ))
}

/// A processor; its number is the one in the table of interrupt controllers.
fn processor(number: u8) -> Raw {
    finished(&Device::new(
        format!("C{number:03X}").as_str().into(),
        vec![&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &number)],
    ))
}

/// The PCI bus with the bridge to ISA.
fn bus(pc: &Description) -> Raw {
    const LAST_PORT: u16 = 0xffff;
    /// The windows of devices end where the I/O APIC is, and begin where firmware lets them at the lowest.
    const WINDOW: core::ops::Range<u32> = 0x8000_0000..0xfec0_0000;
    let first = u32::try_from(pc.low).unwrap_or(u32::MAX).clamp(WINDOW.start, WINDOW.end - 1);
    let memory = |first, last| {
        AddressSpace::<u32>::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
    };
    let windows = template(&[
        &AddressSpace::<u16>::new_bus_number(0, 0),
        // Around the ports of the configuration mechanism.
        &AddressSpace::<u16>::new_io(0, 0xcf7, None),
        &IO::new(0xcf8, 0xcf8, 1, 8),
        &AddressSpace::<u16>::new_io(0xd00, LAST_PORT, None),
        // What the screen's memory is there for.
        &memory(0xa_0000, 0xb_ffff),
        &memory(first, WINDOW.end - 1),
    ]);
    let (apic, pic): (Path, Path) = ("PRTA".into(), "PRTP".into());
    let mode: Path = "PICF".into();
    finished(&Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &windows),
            &Name::new("PRTA".into(), &routes(false)),
            &Name::new("PRTP".into(), &routes(true)),
            &Method::new(
                "_PRT".into(),
                0,
                false,
                vec![&If::new(&mode, vec![&Return::new(&apic)]), &Return::new(&pic)],
            ),
            &bridge(pc),
        ],
    ))
}

/// Where the interrupts of the slots go: by the links, or to inputs of the I/O APIC. Pin A of the PIIX is that of power management,
/// which has its own line.
fn routes(links: bool) -> PackageBuilder {
    let mut routes = PackageBuilder::new();
    for slot in 1..32u8 {
        for (pin, line) in (0u8..4).zip([3u8, 0, 1, 2]) {
            let line = slot.wrapping_add(line) & 3;
            let mut route = PackageBuilder::new();
            route.add_element(&(u32::from(slot) << 16 | 0xffff));
            route.add_element(&pin);
            match LINKS.get(usize::from(line)) {
                _ if (slot, pin) == (PIIX, 0) => {
                    route.add_element(&ZERO);
                    route.add_element(&SCI);
                }
                Some((link, _)) if links => {
                    route.add_element(&Path::new(link));
                    route.add_element(&ZERO);
                }
                _ => {
                    route.add_element(&ZERO);
                    route.add_element(&(PCI_INPUT + line));
                }
            }
            routes.add_element(&route);
        }
    }
    routes
}

/// A link of the router: the register behind it has the ISA line, or is off.
fn link(path: &str, register: &str, number: u8) -> Raw {
    let register = Path::new(register);
    let (buffer, line): (Path, Path) = ("BUFF".into(), "LINE".into());
    // One interrupt, none yet: its number is four bytes at an offset of 5.
    let current = template(&[&interrupts(&[0])]);
    let possible = template(&[&interrupts(&[5, 10, 11])]);
    let is_on = LessThan::new(&register, &OFF);
    finished(&Device::new(
        path.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0F")),
            &Name::new("_UID".into(), &number),
            &Name::new("_PRS".into(), &possible),
            &Name::new("BUFF".into(), &current),
            &Method::new(
                "_STA".into(),
                0,
                false,
                vec![&If::new(&is_on, vec![&Return::new(&0x0bu8)]), &Return::new(&0x09u8)],
            ),
            &Method::new("_DIS".into(), 0, false, vec![&Or::new(&register, &register, &OFF)]),
            &Method::new(
                "_CRS".into(),
                0,
                true,
                vec![
                    &CreateDWordField::new(&line, &buffer, &5u8),
                    &If::new(&is_on, vec![&Store::new(&line, &register)]),
                    &Return::new(&buffer),
                ],
            ),
            &Method::new(
                "_SRS".into(),
                1,
                true,
                vec![&CreateDWordField::new(&line, &Arg(0), &5u8), &Store::new(&register, &line)],
            ),
        ],
    ))
}

/// Interrupts of which one is used: with a level, high, shared (ACPI 6.4.3.6).
fn interrupts(numbers: &[u8]) -> Raw {
    let mut bytes = vec![0x89, (2 + 4 * numbers.len()) as u8, 0, 0x09, numbers.len() as u8];
    numbers.iter().for_each(|&number| bytes.extend_from_slice(&u32::from(number).to_le_bytes()));
    Raw(bytes)
}

/// An ISA line, edge-triggered (ACPI 6.4.2.1).
fn line(number: u8) -> Raw {
    let [low, high] = 1u16.wrapping_shl(number.into()).to_le_bytes();
    Raw(vec![0x22, low, high])
}

/// A channel of the ISA DMA controllers, for bytes (ACPI 6.4.2.2).
fn channel(number: u8) -> Raw {
    Raw(vec![0x2a, 1u8.wrapping_shl(number.into()), 0])
}

fn ports(first: u16, count: u8) -> IO {
    IO::new(first, first, 1, count)
}

/// The bridge: the router's registers, and the devices on ISA.
fn bridge(pc: &Description) -> Raw {
    let routers = FieldEntry::Named;
    let mut devices = vec![
        device("PIC_", "PNP0000", 0, &[&ports(0x20, 2), &ports(0xa0, 2), &ports(0x4d0, 2), &line(2)]),
        device("TMR_", "PNP0100", 0, &[&ports(0x40, 4), &line(0)]),
        device("DMAC", "PNP0200", 0, &[&ports(0, 0x10), &ports(0x80, 0x10), &ports(0xc0, 0x20), &channel(4)]),
        device("RTC_", "PNP0B00", 0, &[&ports(0x70, 4), &line(8)]),
        device("SPKR", "PNP0800", 0, &[&ports(0x61, 1)]),
        device("KBD_", "PNP0303", 0, &[&ports(0x60, 1), &ports(0x64, 1), &line(1)]),
        device("MOU_", "PNP0F13", 0, &[&line(12)]),
        device("COM1", "PNP0501", 1, &[&ports(0x3f8, 8), &line(4)]),
        device("COM2", "PNP0501", 2, &[&ports(0x2f8, 8), &line(3)]),
        // Ports that no driver may take for another device.
        device("SYSR", "PNP0C02", 0, &[&ports(0x92, 1), &ports(0xb2, 2), &ports(PM_PORTS, pm::PORTS as u8)]),
    ];
    if pc.floppy {
        devices.push(device(
            "FDC_",
            "PNP0700",
            0,
            &[&ports(0x3f2, 4), &ports(0x3f7, 1), &line(6), &channel(2)],
        ));
    }
    let fields = Field::new(
        "PIRQ".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        vec![routers(*b"PRQA", 8), routers(*b"PRQB", 8), routers(*b"PRQC", 8), routers(*b"PRQD", 8)],
    );
    let address = Name::new("_ADR".into(), &(u32::from(PIIX) << 16));
    let region = OpRegion::new("PIRQ".into(), OpRegionSpace::PCIConfig, &0x60u8, &4u8);
    let mut parts: Vec<&dyn Aml> = vec![&address, &region, &fields];
    parts.extend(devices.iter().map(|device| -> &dyn Aml { device }));
    finished(&Device::new("ISA_".into(), parts))
}
