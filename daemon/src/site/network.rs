//! The site's network in the words of systemd-networkd and nftables. Values were checked by crate `stick`: none
//! holds a line's end.
use std::fmt::Write;
use stick::Network;

/// Interfaces that are wired, by systemd's names and the kernel's.
const WIRED: &str = "en* eth*";

/// `systemd.network(5)`. The time servers are the interface's: systemd-timesyncd reads its own file once, long before the site is known, and
/// hears of an interface's servers when it comes up. Those of DHCP count where the site names none.
pub fn networkd(network: &Network, time_servers: &[String], has_hostname: bool) -> String {
    let mut text = format!("[Match]\nName={}\n\n[Network]\n", network.interface.as_deref().unwrap_or(WIRED));
    let yes = |is: bool| if is { "yes" } else { "no" };
    if !time_servers.is_empty() {
        let _ = writeln!(text, "NTP={}", time_servers.join(" "));
    }
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
            let (ntp, hostname) = (yes(time_servers.is_empty()), yes(!has_hostname));
            let _ = writeln!(text, "DHCP=yes\n\n[DHCPv4]\nUseNTP={ntp}\nUseHostname={hostname}");
            let _ = writeln!(text, "\n[DHCPv6]\nUseNTP={ntp}\nUseHostname={hostname}");
        }
    }
    text
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
            networkd(&site, &["a".into(), "b".into()], true),
            "[Match]\nName=eth1\n\n[Network]\nNTP=a b\nAddress=10.0.0.9/24\nDHCP=no\nIPv6AcceptRA=no\nGateway=10.0.0.1\nDNS=10.0.0.2\n"
        );
        let dhcp = networkd(&Network::default(), &["a".into()], false);
        assert!(dhcp.starts_with("[Match]\nName=en* eth*\n\n[Network]\nNTP=a\nDHCP=yes\n"), "{dhcp}");
        assert!(dhcp.contains("UseNTP=no\nUseHostname=yes"), "{dhcp}");
    }

    #[test]
    fn no_port_is_open_that_is_not_named() {
        assert_eq!(nftables(&[]), "");
        assert_eq!(nftables(&[104, 443]), "add element inet triaged open { 104, 443 }\n");
    }
}
