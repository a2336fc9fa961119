//! A double of the EndpointSlice controller.

use hyper::http::Method;
use kube::Client;
use serde_json::json;

use super::requests::send;

/// Writes an EndpointSlice, as the controller does when the kubelet reports a pod ready or not ready.
pub(crate) async fn publish(admin: &Client, namespace: &str, service: &str, is_ready: bool) {
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"generateName": format!("{service}-"), "labels": {"kubernetes.io/service-name": service}},
        // The API server accepts no loopback address here.
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": is_ready}}],
        "ports": [{"name": "webhook", "port": 8443, "protocol": "TCP"}]});
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    send(admin, Method::POST, &path, "application/json", slice.to_string()).await.granted();
}
