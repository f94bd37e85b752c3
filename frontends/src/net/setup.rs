//! The handshake, up to a connected port.

use core::cell::{Cell, RefCell};

use trunnion_protocol::netif::keys;
use trunnion_protocol::xenbus::State;

use super::ring::{Receiving, Sending};
use super::{Nic, Options};
use crate::error::Error;
use crate::event::Channel;
use crate::grant::GrantTable;
use crate::platform::Platform;
use crate::store::Transaction;
use crate::text::Text;
use crate::wait::Waiters;
use crate::xenbus::{Device, Farewell};

/// What the back end takes from this guest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Accepts {
    pub(super) sg: bool,
    pub(super) gso_v4: bool,
    pub(super) gso_v6: bool,
}

impl<'t, 'p, P: Platform> Nic<'t, 'p, P> {
    /// Connects a port; an earlier kernel's connection is closed first. The device comes back when the port is
    /// [closed](Self::close); after an error it is [opened](Device::open) again.
    pub async fn connect(
        grants: &'t GrantTable<'p, P>,
        device: Device<'t, 'p, P>,
        options: Options,
    ) -> Result<Self, Error> {
        device.reset().await?;
        let backend = device.backend();
        if device.offered(keys::FEATURE_RX_COPY).await? != Some(1) {
            // A back end that gives pages away instead of copying; nobody has one any more.
            return Err(Error::Malformed(keys::FEATURE_RX_COPY));
        }
        let offers = async |key: &str| device.offered(key).await.map(|value| value == Some(1));
        let accepts = Accepts {
            sg: offers(keys::FEATURE_SG).await?,
            gso_v4: offers(keys::FEATURE_GSO_TCPV4).await?,
            gso_v6: offers(keys::FEATURE_GSO_TCPV6).await?,
        };
        let mac: Text<24> = device.own_text(keys::MAC).await?;
        let address = address(mac.as_str()).ok_or(Error::Malformed(keys::MAC))?;
        let channel = Channel::open(grants.platform(), backend)?;
        let mut sending = Sending::new(grants, backend)?;
        let receiving = match Receiving::new(grants, backend) {
            Ok(receiving) => receiving,
            Err(error) => {
                sending.bury(grants);
                return Err(error);
            }
        };
        let number = |value: u32| Text::<12>::format(format_args!("{value}"));
        let (tx, rx) = (number(sending.reference().0)?, number(receiving.reference().0)?);
        let port = number(channel.port().0)?;
        // From here on an early return takes everything back, by dropping the port.
        let mut nic = Self {
            grants,
            device: None,
            address,
            options,
            accepts,
            channel,
            sending: RefCell::new(sending),
            receiving: RefCell::new(receiving),
            waiters: Waiters::new(),
            closed: Cell::new(false),
            fault: Cell::new(None),
            farewell: Farewell::default(),
        };
        let large = if options.offload { "1" } else { "0" };
        let complete = if options.offload { "0" } else { "1" };
        let written = [
            (keys::TX_RING_REF, tx.as_str()),
            (keys::RX_RING_REF, rx.as_str()),
            (keys::EVENT_CHANNEL, port.as_str()),
            (keys::REQUEST_RX_COPY, "1"),
            (keys::FEATURE_RX_NOTIFY, "1"),
            (keys::FEATURE_SG, large),
            (keys::FEATURE_GSO_TCPV4, large),
            (keys::FEATURE_GSO_TCPV6, large),
            (keys::FEATURE_NO_CSUM_OFFLOAD, complete),
            (keys::FEATURE_IPV6_CSUM_OFFLOAD, large),
        ];
        let offer = async |transaction: Transaction| {
            for (key, value) in written {
                device.write(transaction, key, value).await?;
            }
            Ok(())
        };
        device.store().transact(offer).await?;
        // A network back end connects at this state, and at no earlier one.
        device.set_state(State::Connected).await?;
        let back = device
            .wait_back(|back| {
                matches!(back, State::Connected | State::Closing | State::Closed | State::Unknown)
            })
            .await?;
        if back != State::Connected {
            // Let go, and say so: the back end then does the same.
            drop(nic);
            let _ = device.set_state(State::Closed).await;
            return Err(Error::Closed);
        }
        nic.device = Some(device);
        // Buffers were offered before anybody listened.
        nic.channel.notify();
        Ok(nic)
    }
}

/// Six hexadecimal numbers with colons.
fn address(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(address("00:16:3e:01:02:fe"), Some([0, 0x16, 0x3e, 1, 2, 0xfe]));
        for wrong in ["", "00:16:3e:01:02", "00:16:3e:01:02:fe:00", "0g:16:3e:01:02:fe", "+1:16:3e:01:02:fe"]
        {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }
}
