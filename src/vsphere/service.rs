//! What a server says of itself when it is first asked: what it is, and the objects that others are found by.

use roxmltree::Node;
use serde::Serialize;

use super::soap::{self, MoRef};
use crate::model::error::Result;

/// What a server is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct About {
    /// `VMware vCenter Server 8.0.2 build-22617221`
    pub full_name: String,
    /// `8.0.2`
    pub version: String,
    /// `8.0.2.0`
    pub api_version: String,
    /// Whether it manages hosts; else it is one.
    pub is_vcenter: bool,
    /// By which it can be told from others.
    pub instance_uuid: Option<String>,
}

/// The objects of a server that others are found by.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) root_folder: MoRef,
    pub(super) property_collector: MoRef,
    pub(super) view_manager: Option<MoRef>,
    pub(super) ovf_manager: Option<MoRef>,
    pub(super) authorization_manager: Option<MoRef>,
    pub(super) custom_fields_manager: Option<MoRef>,
    pub(super) session_manager: MoRef,
    pub(super) about: About,
}

/// Reads it from the answer to the first question.
pub(super) fn service(answer: Node<'_, '_>) -> Result<Service> {
    let content = soap::child(answer, "returnval").ok_or_else(|| soap::odd("the server", "nothing"))?;
    let object = |name: &str| soap::child(content, name).map(soap::moref);
    let needed = |name: &str| object(name).ok_or_else(|| soap::odd("the server", &format!("no `{name}`")));
    let about = soap::child(content, "about");
    let said = |name: &str| about.and_then(|about| soap::text(about, name)).unwrap_or_default().to_owned();
    let api_type = said("apiType");
    if api_type.is_empty() {
        return Err(soap::odd("the server", "no word about what it is"));
    }
    Ok(Service {
        root_folder: needed("rootFolder")?,
        property_collector: needed("propertyCollector")?,
        view_manager: object("viewManager"),
        ovf_manager: object("ovfManager"),
        authorization_manager: object("authorizationManager"),
        custom_fields_manager: object("customFieldsManager"),
        session_manager: needed("sessionManager")?,
        about: About {
            full_name: said("fullName"),
            version: said("version"),
            api_version: said("apiVersion"),
            is_vcenter: api_type == "VirtualCenter",
            instance_uuid: Some(said("instanceUuid")).filter(|uuid| !uuid.is_empty()),
        },
    })
}
