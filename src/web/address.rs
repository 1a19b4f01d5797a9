//! Addresses as people and servers write them (the URL standard: international names, numbers in any form, relative to another one), made into
//! addresses that are asked.
//!
//! What is not here: which of them are not asked; what connects looks at that, so that nothing can be written around it.

use url::{Host, Url};

use super::NoAnswer;
use crate::model::web_address::WebAddress;

/// The address that a URL stands for.
pub(crate) fn address(text: &str) -> Result<WebAddress, NoAnswer> {
    let url = Url::parse(text).map_err(|error| NoAnswer::Refused(format!("{text} is not a URL: {error}")))?;
    of(&url)
}

/// Where an answer's `Location` leads.
pub(super) fn leads_to(from: &WebAddress, location: &str) -> Result<WebAddress, NoAnswer> {
    let joined = Url::parse(&format!("{from}{}", from.target)).and_then(|base| base.join(location));
    let unfit = |error| NoAnswer::Refused(format!("{from} leads to what is not a URL: {error}"));
    of(&joined.map_err(unfit)?)
}

fn of(url: &Url) -> Result<WebAddress, NoAnswer> {
    let is_https = match url.scheme() {
        "https" => true,
        "http" => false,
        other => return Err(NoAnswer::Refused(format!("{other} is not asked for anything"))),
    };
    // Both schemes always have a host and a port.
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Ipv6(ip)) => ip.to_string(),
        None => return Err(NoAnswer::Refused("it has no host".to_owned())),
    };
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(WebAddress {
        is_https,
        host,
        port: url.port_or_known_default().unwrap_or_default(),
        target: format!("{}{query}", url.path()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(address: &WebAddress) -> String {
        format!("{address}{}", address.target)
    }

    #[test]
    fn a_url_is_asked_for_as_its_standard_says() {
        for (text, asked) in [
            ("http://h", "http://h/"),
            ("https://H.example.com:443/a b?c=d e#part", "https://h.example.com/a%20b?c=d%20e"),
            ("https://bücher.example.com/ä", "https://xn--bcher-kva.example.com/%C3%A4"),
            ("http://[2001:db8::1]:8080/", "http://[2001:db8::1]:8080/"),
        ] {
            assert_eq!(shown(&address(text).unwrap()), asked, "{text}");
        }
        for number in ["169.254.169.254", "0xA9FEA9FE", "0251.0376.0251.0376", "2852039166"] {
            assert_eq!(address(&format!("http://{number}/")).unwrap().host, "169.254.169.254", "{number}");
        }
        for text in ["file:///etc/passwd", "ftp://h/", "h/x", "http://", "https://h:99999/", ""] {
            assert!(matches!(address(text), Err(NoAnswer::Refused(_))), "{text}");
        }
    }

    #[test]
    fn where_an_answer_leads_is_meant_from_where_it_came() {
        let from = address("https://h:81/a/b?c").unwrap();
        for (location, to) in [
            ("/x?y", "https://h:81/x?y"),
            ("x", "https://h:81/a/x"),
            ("../../x", "https://h:81/x"),
            ("//other/x", "https://other/x"),
            ("http://other", "http://other/"),
        ] {
            assert_eq!(shown(&leads_to(&from, location).unwrap()), to, "{location}");
        }
        for location in ["file:///etc/passwd", "http://", "gopher://h/"] {
            assert!(leads_to(&from, location).is_err(), "{location}");
        }
    }
}
