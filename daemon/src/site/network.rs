//! The site's network in the words of systemd-networkd, systemd-timesyncd and nftables. Values were checked by crate `stick`: none
//! holds a line's end.
use std::fmt::Write;
use stick::Network;

/// Interfaces that are wired, by systemd's names and the kernel's.
const WIRED: &str = "en* eth*";

/// `systemd.network(5)`.
pub fn networkd(network: &Network, has_time_servers: bool, has_hostname: bool) -> String {
    let mut text = format!("[Match]\nName={}\n\n[Network]\n", network.interface.as_deref().unwrap_or(WIRED));
    let yes = |is: bool| if is { "yes" } else { "no" };
    match network.address {
        Some(address) => {
            // Nobody on the wire tells the box how to reach the world.
            let _ = writeln!(text, "Address={address}\nDHCP=no\nIPv6AcceptRA=no");
            if let Some(gateway) = network.gateway {
                let _ = writeln!(text, "Gateway={gateway}");
            }
            for server in &network.dns {
                let _ = writeln!(text, "DNS={server}");
            }
        }
        None => {
            let (ntp, hostname) = (yes(!has_time_servers), yes(!has_hostname));
            let _ = writeln!(text, "DHCP=yes\n\n[DHCPv4]\nUseNTP={ntp}\nUseHostname={hostname}");
            let _ = writeln!(text, "\n[DHCPv6]\nUseNTP={ntp}\nUseHostname={hostname}");
        }
    }
    text
}

/// `timesyncd.conf(5)`. Without servers those of DHCP count, and no others: a box in a hospital asks nobody outside.
pub fn timesyncd(servers: &[String]) -> String {
    format!("[Time]\nNTP={}\nFallbackNTP=\n", servers.join(" "))
}

/// The elements of the set of open ports in the image's own ruleset (`/usr/lib/triaged/nftables.conf`), which lets nothing else in.
pub fn nftables(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    match ports.as_slice() {
        [] => String::new(),
        ports => format!("add element inet triaged open {{ {} }}\n", ports.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_sites_turns_dhcp_off() {
        let site = Network {
            interface: Some("eth1".into()),
            address: Some("10.0.0.9/24".parse().unwrap()),
            gateway: Some("10.0.0.1".parse().unwrap()),
            dns: vec!["10.0.0.2".parse().unwrap()],
        };
        assert_eq!(
            networkd(&site, true, true),
            "[Match]\nName=eth1\n\n[Network]\nAddress=10.0.0.9/24\nDHCP=no\nIPv6AcceptRA=no\nGateway=10.0.0.1\nDNS=10.0.0.2\n"
        );
        let dhcp = networkd(&Network::default(), true, false);
        assert!(dhcp.starts_with("[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n"), "{dhcp}");
        assert!(dhcp.contains("UseNTP=no\nUseHostname=yes"), "{dhcp}");
    }

    #[test]
    fn no_port_is_open_that_is_not_named() {
        assert_eq!(nftables(&[]), "");
        assert_eq!(nftables(&[104, 443]), "add element inet triaged open { 104, 443 }\n");
        assert_eq!(timesyncd(&["a".into(), "b".into()]), "[Time]\nNTP=a b\nFallbackNTP=\n");
    }
}
