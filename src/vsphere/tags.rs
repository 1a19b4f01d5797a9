//! Which machines have which tags. Only the newer half of a vCenter's API knows them: plain requests (`/rest/com/vmware/cis`) with a session of their own,
//! by the same login and the same trust.
//!
//! Every tag there is asked for by its name first, because a name may be a pattern and is not the server's own. What is not here: the rest of that API.

use std::collections::{BTreeMap, BTreeSet};

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::client::Client;
use super::soap::{self, MOST_BYTES};
use super::wire::Wire;
use crate::model::base64::base64;
use crate::model::error::{Error, Kind, Result};
use crate::model::pattern::fits;

const SESSION: &str = "/rest/com/vmware/cis/session";
const TAGS: &str = "/rest/com/vmware/cis/tagging/tag";
const CATEGORIES: &str = "/rest/com/vmware/cis/tagging/category";
const ASSOCIATIONS: &str = "/rest/com/vmware/cis/tagging/tag-association";
/// Who says it speaks for a session.
const SESSION_HEADER: HeaderName = HeaderName::from_static("vmware-api-session-id");
/// Nobody has more, and each costs a request.
const MOST_TAGS: usize = 10_000;
/// In one message.
const MOST_TOLD: usize = 20;

/// The server's names for the machines that have all of these tags: `backup`, `env:prod` (category and tag), or a pattern of either. One that fits no tag is an
/// error, at its number.
pub fn machines_with(client: &Client, wanted: &[String]) -> Result<BTreeSet<String>, (usize, Error)> {
    let mut rest = Rest::begin(client).map_err(|error| (0, error))?;
    let found = rest.machines_with(wanted);
    rest.end();
    found
}

/// A session of its own.
struct Rest<'c> {
    client: &'c Client,
    wire: Wire,
    session: HeaderValue,
}

/// A tag: the server's name for it, and what people call it.
struct Tag {
    id: String,
    name: String,
    category: String,
}

impl Tag {
    fn is_like(&self, pattern: &str) -> bool {
        fits(pattern, &self.name) || fits(pattern, &self.shown())
    }

    fn shown(&self) -> String {
        format!("{}:{}", self.category, self.name)
    }
}

impl Rest<'_> {
    fn begin(client: &Client) -> Result<Rest<'_>> {
        if !client.about().is_vcenter {
            return Err(Error::new(
                Kind::Source,
                format!("{} is a host alone, which has no tags", client.host()),
            )
            .advice("select by `folder` or `names`, or name the host's vCenter"));
        }
        let login = client.login();
        let said = base64(format!("{}:{}", login.username, login.password.reveal()).as_bytes());
        let mut authorization = HeaderValue::from_str(&format!("Basic {said}"))
            .map_err(|_| Error::internal("a login cannot be written into a header"))?;
        authorization.set_sensitive(true);
        let headers = HeaderMap::from_iter([(AUTHORIZATION, authorization)]);
        let mut wire = client.wire()?;
        let id = ask(client, &mut wire, (Method::POST, SESSION), headers, String::new())?;
        let mut session = id
            .as_str()
            .and_then(|id| HeaderValue::from_str(id).ok())
            .ok_or_else(|| soap::odd(client.host(), "no session for its tags"))?;
        session.set_sensitive(true);
        Ok(Rest { client, wire, session })
    }

    fn ask(&mut self, method: Method, target: &str, body: String) -> Result<Value> {
        let mut headers = HeaderMap::from_iter([(SESSION_HEADER, self.session.clone())]);
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        ask(self.client, &mut self.wire, (method, target), headers, body)
    }

    fn machines_with(&mut self, wanted: &[String]) -> Result<BTreeSet<String>, (usize, Error)> {
        let tags = self.tags().map_err(|error| (0, error))?;
        let mut all: Option<BTreeSet<String>> = None;
        for (index, pattern) in wanted.iter().enumerate() {
            let meant: Vec<&Tag> = tags.iter().filter(|tag| tag.is_like(pattern)).collect();
            if meant.is_empty() {
                let cause = format!("{} has no tag `{pattern}`", self.client.host());
                let told = tags.iter().take(MOST_TOLD).map(Tag::shown);
                let error = Error::new(Kind::Source, cause).allowed(told);
                return Err((
                    index,
                    error.advice("mend it, or remove it; `category:tag` tells tags of one name apart"),
                ));
            }
            let mut with = BTreeSet::new();
            for tag in meant {
                with.extend(self.with(tag).map_err(|error| (index, error))?);
            }
            all = Some(match all {
                None => with,
                Some(all) => all.intersection(&with).cloned().collect(),
            });
        }
        Ok(all.unwrap_or_default())
    }

    fn tags(&mut self) -> Result<Vec<Tag>> {
        let ids = texts(&self.ask(Method::GET, TAGS, String::new())?);
        if ids.len() > MOST_TAGS {
            let cause = format!("{} has more than {MOST_TAGS} tags", self.client.host());
            return Err(Error::new(Kind::Source, cause).advice("select by `folder` or `names`"));
        }
        let mut categories: BTreeMap<String, String> = BTreeMap::new();
        let mut tags = Vec::with_capacity(ids.len());
        for id in ids {
            let tag = self.one(TAGS, &id)?;
            let of = text(&tag, "category_id");
            if !categories.contains_key(&of) {
                let category = self.one(CATEGORIES, &of)?;
                categories.insert(of.clone(), text(&category, "name"));
            }
            let category = categories.get(&of).cloned().unwrap_or_default();
            tags.push(Tag { id, name: text(&tag, "name"), category });
        }
        tags.sort_by_key(Tag::shown);
        Ok(tags)
    }

    fn one(&mut self, of: &str, id: &str) -> Result<Value> {
        self.refuse_odd(id)?;
        self.ask(Method::GET, &format!("{of}/id:{id}"), String::new())
    }

    fn with(&mut self, tag: &Tag) -> Result<BTreeSet<String>> {
        let target = format!("{ASSOCIATIONS}/id:{}?~action=list-attached-objects", tag.id);
        let answer = self.ask(Method::POST, &target, "{}".to_owned())?;
        let machines = answer.as_array().into_iter().flatten();
        let machines = machines.filter(|object| object["type"] == "VirtualMachine");
        Ok(machines.map(|object| text(object, "id")).collect())
    }

    /// What a server calls its own stands in an address: no other one is asked for that.
    fn refuse_odd(&self, id: &str) -> Result<()> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ":-_.".contains(c);
        match !id.is_empty() && id.chars().all(is_plain) {
            true => Ok(()),
            false => Err(soap::odd(self.client.host(), "a tag that has no name of the server's own")),
        }
    }

    /// Sessions that nobody ends count against what a server allows.
    fn end(mut self) {
        if let Err(error) = self.ask(Method::DELETE, SESSION, String::new()) {
            tracing::debug!(%error, "not logged out: the server ends the session by itself");
        }
    }
}

/// Asks, and gives what is answered.
fn ask(
    client: &Client,
    wire: &mut Wire,
    (method, target): (Method, &str),
    headers: HeaderMap,
    body: String,
) -> Result<Value> {
    let limit = client.patience().timeout;
    let mut said = wire.ask(method, target, headers, body, limit)?;
    let status = said.status;
    let mut bytes = Vec::new();
    while let Some(piece) = wire.next(&mut said)? {
        if bytes.len() + piece.len() > MOST_BYTES {
            return Err(soap::odd(client.host(), &format!("more than {} MiB", MOST_BYTES >> 20)));
        }
        bytes.extend_from_slice(&piece);
    }
    look_at_status(client.host(), status)?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let mut answer: Value =
        serde_json::from_slice(&bytes).map_err(|_| soap::odd(client.host(), "what is not JSON"))?;
    Ok(answer.get_mut("value").map(Value::take).unwrap_or_default())
}

fn look_at_status(host: &str, status: StatusCode) -> Result<()> {
    let error = |kind| Error::new(kind, format!("{host} answered {status} when it was asked for its tags"));
    match status.as_u16() {
        200..=299 => Ok(()),
        401 | 403 => Err(error(Kind::Auth)
            .advice("let the account see tags (any role with `System.Read` on the vCenter does)")),
        429 | 500 | 502..=504 => {
            Err(error(Kind::Network).advice("its services start, or are overloaded: see its own health page"))
        }
        _ => Err(error(Kind::Source).advice("select by `folder` or `names` where the server has no tags")),
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
