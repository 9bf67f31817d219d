//! An address with its network's length.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// `10.0.0.9/24` or `2001:db8::9/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The box's.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
}

/// Not an address of a box.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no address of a box with its network's length, such as 10.0.0.9/24")]
pub struct AddressError(pub String);

impl Address {
    /// Whether another address lies in the same network.
    pub fn holds(&self, other: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, true),
            IpAddr::V6(ip) => (u128::from(ip), false),
        };
        let ((own, own_v4), (other, other_v4)) = (bits(self.ip), bits(other));
        // The prefix is 1 to 128.
        own_v4 == other_v4 && (own ^ other) >> (128 - u32::from(self.prefix)) == 0
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        if !(1..=most).contains(&prefix) || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(wrong());
        }
        Ok(Self { ip, prefix })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_its_networks_length() {
        for text in ["10.0.0.9/24", "2001:db8::9/64", "192.168.1.1/32"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "10.0.0.9",
            "10.0.0.9/33",
            "10.0.0.9/0",
            "0.0.0.0/8",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "ct/24",
            "10.0.0.9/24\n",
            "",
        ] {
            assert_eq!(text.parse::<Address>(), Err(AddressError(text.into())));
        }
    }
}
