//! The handshake, up to a connected disk.

use core::cell::{Cell, RefCell};

use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::blkif::{SEGMENTS, info, keys, protocol};
use trunnion_protocol::id::DomainId;
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::FrontRing;
use trunnion_protocol::xenbus::State;

use super::flight::Flights;
use super::{Disk, SEGMENTS_MAX, SLOTS};
use crate::error::Error;
use crate::event::Channel;
use crate::grant::{Access, GrantTable, REFERENCES, share};
use crate::platform::Platform;
use crate::store::Transaction;
use crate::text::Text;
use crate::wait::Waiters;
use crate::xenbus::{Device, Farewell, FrontStep};

const _: () = assert!(SEGMENTS_MAX <= REFERENCES && SLOTS <= REFERENCES);

/// What a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of a sector of the device; requests should be multiples of it.
    pub sector_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// The back end can make writes durable.
    pub flush: bool,
    /// Most pages of one request.
    pub(super) segments: usize,
    /// The device's number, repeated in each request.
    pub(super) handle: u16,
    /// The domain that serves the disk.
    pub(super) backend: DomainId,
}

impl<'t, 'p, P: Platform> Disk<'t, 'p, P> {
    /// Connects a disk; an earlier kernel's connection is closed first. The device comes back when the disk is
    /// [closed](Self::close); after an error it is [opened](Device::open) again.
    pub async fn connect(grants: &'t GrantTable<'p, P>, device: Device<'t, 'p, P>) -> Result<Self, Error> {
        device.reset().await?;
        let (backend, platform) = (device.backend(), grants.platform());
        let segments = device.offered(keys::FEATURE_MAX_INDIRECT_SEGMENTS).await?.unwrap_or(0);
        let segments = usize::try_from(segments).unwrap_or(usize::MAX).min(SEGMENTS_MAX);
        let channel = Channel::open(platform, backend)?;
        let (ring_references, pages) = share(grants, PAGE_SIZE, backend, Access::ReadWrite)?;
        // The header is there before anybody hears of the ring.
        let ring = FrontRing::new(pages, Width::W64).ok_or(Error::OutOfMemory)?;
        let shape = Shape {
            sectors: 0,
            sector_size: 512,
            read_only: true,
            flush: false,
            segments,
            handle: 0,
            backend,
        };
        // From here on an early return takes everything back, by dropping the disk.
        let mut disk = Self {
            grants,
            device: None,
            shape,
            channel,
            ring: RefCell::new(Some(ring)),
            ring_references: Cell::new(ring_references),
            indirect: None,
            flights: RefCell::new(Flights::new()),
            waiters: Waiters::new(),
            closed: Cell::new(false),
            fault: Cell::new(None),
            farewell: Farewell::default(),
        };
        if segments > SEGMENTS {
            disk.indirect = Some(share(grants, SLOTS * PAGE_SIZE, backend, Access::ReadOnly)?);
        }
        let reference = ring_references.as_slice().first().ok_or(Error::OutOfMemory)?;
        let reference: Text<12> = Text::format(format_args!("{reference}"))?;
        let port: Text<12> = Text::format(format_args!("{}", disk.channel.port()))?;
        let keys = [
            (keys::RING_REF, reference.as_str()),
            (keys::EVENT_CHANNEL, port.as_str()),
            (keys::PROTOCOL, protocol(Width::W64)),
        ];
        let offer = async |transaction: Transaction| {
            for (key, value) in keys {
                device.write(transaction, key, value).await?;
            }
            Ok(())
        };
        device.store().transact(offer).await?;
        device.set_state(State::Initialised).await?;
        let finish = async {
            if device.next_step(State::Initialised).await? != FrontStep::Connect {
                return Err(Error::Closed);
            }
            let shape = properties(&device, disk.shape).await?;
            device.set_state(State::Connected).await.map(|()| shape)
        };
        match finish.await {
            Ok(shape) => disk.shape = shape,
            Err(error) => {
                // Let go, and say so: the back end then does the same.
                drop(disk);
                let _ = device.set_state(State::Closed).await;
                return Err(error);
            }
        }
        disk.device = Some(device);
        Ok(disk)
    }
}

/// What the back end says about the disk once it is connected.
async fn properties<P: Platform>(device: &Device<'_, '_, P>, shape: Shape) -> Result<Shape, Error> {
    let sectors = device.required(keys::SECTORS).await?;
    let sector_size = device.required(keys::SECTOR_SIZE).await?;
    let flags = device.required(keys::INFO).await?;
    let sector_size = u32::try_from(sector_size).ok().filter(|size| size.is_power_of_two() && *size >= 512);
    Ok(Shape {
        sectors,
        sector_size: sector_size.ok_or(Error::Malformed(keys::SECTOR_SIZE))?,
        read_only: flags & u64::from(info::READONLY) != 0,
        flush: device.offered(keys::FEATURE_FLUSH_CACHE).await? == Some(1),
        ..shape
    })
}
