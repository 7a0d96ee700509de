//! `runtime.v1.RuntimeService` of the Kubernetes CRI, and `containerd.services.containers.v1.Containers` for containers
//! that `ctr` and nerdctl made. Messages hold only the fields that are used; the numbers are those of the public protos.

use std::collections::HashMap;
use std::path::Path;

use super::grpc::{Call, unary};
use super::{Metadata, RuntimeMiss};

#[derive(Clone, PartialEq, prost::Message)]
struct ById {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<ContainerStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerStatus {
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<Named>,
    #[prost(message, optional, tag = "8")]
    pub(super) image: Option<ImageSpec>,
    #[prost(map = "string, string", tag = "12")]
    pub(super) labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Named {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ImageSpec {
    #[prost(string, tag = "1")]
    pub(super) image: String,
    #[prost(string, tag = "18")]
    pub(super) user_specified_image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodMetadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GetContainerResponse {
    #[prost(message, optional, tag = "1")]
    container: Option<ContainerdContainer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerdContainer {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
    #[prost(string, tag = "3")]
    image: String,
}

/// Asks a CRI runtime for the container `id`, which may also be a pod's sandbox.
pub(super) async fn status(socket: &Path, id: &str) -> Result<Metadata, RuntimeMiss> {
    let question = ById { id: id.to_owned() };
    let call = |method| Call { method, containerd_namespace: None };
    let container = call("/runtime.v1.RuntimeService/ContainerStatus");
    match unary::<_, ContainerStatusResponse>(socket, &container, &question).await {
        Ok(response) => response.status.map(container_metadata).ok_or(RuntimeMiss::NotFound),
        Err(RuntimeMiss::NotFound) => {
            let sandbox = call("/runtime.v1.RuntimeService/PodSandboxStatus");
            let response: PodSandboxStatusResponse = unary(socket, &sandbox, &question).await?;
            let pod = response.status.and_then(|status| status.metadata).ok_or(RuntimeMiss::NotFound)?;
            // What Kubernetes itself calls the container that holds a pod's namespaces.
            Ok(Metadata {
                name: "POD".into(),
                pod: pod.name,
                namespace: pod.namespace,
                ..Metadata::default()
            })
        }
        Err(miss) => Err(miss),
    }
}

/// Asks containerd itself for the container `id` in one of its namespaces.
pub(super) async fn containerd(socket: &Path, namespace: &str, id: &str) -> Result<Metadata, RuntimeMiss> {
    let method = "/containerd.services.containers.v1.Containers/Get";
    let call = Call { method, containerd_namespace: Some(namespace) };
    let response: GetContainerResponse = unary(socket, &call, &ById { id: id.to_owned() }).await?;
    let container = response.container.ok_or(RuntimeMiss::NotFound)?;
    let name = container.labels.get("nerdctl/name").unwrap_or(&container.id).clone();
    let metadata = Metadata { name, image: container.image, ..Metadata::default() };
    Ok(metadata.with_pod_labels(|label| container.labels.get(label).map(String::as_str)))
}

fn container_metadata(status: ContainerStatus) -> Metadata {
    let image = status.image.unwrap_or_default();
    // Once pulled, `image` may be an id; the reference from the pod's spec is kept beside it.
    let named = [image.user_specified_image, image.image].into_iter().find(|image| !image.is_empty());
    let name = status.metadata.unwrap_or_default().name;
    let metadata = Metadata { name, image: named.unwrap_or_default(), ..Metadata::default() };
    metadata.with_pod_labels(|label| status.labels.get(label).map(String::as_str))
}
