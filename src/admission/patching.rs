//! The evaluation of a request at `/mutate`: a patch, if it is short enough.

use super::{Decision, Endpoint, Evaluation, Evaluator, evaluation::Basis, patch::Patch, verdict::Verdict};
use crate::{
    api::review::Request,
    change::Change,
    mutations::{self, MutationInput},
};

/// The longest patch, in KiB of JSON. Base64 makes it a third longer, and with the rest of the answer it stays below
/// 64 KiB. A patch that adds 80 NICs has 20 KiB.
const PATCH_KIB: usize = 46;

impl Evaluator<'_> {
    pub(super) fn mutate<'r>(&self, request: &'r Request<'r>, change: Change<'r>) -> Evaluation<'r> {
        let facts = self.facts_for(&change);
        let operations =
            mutations::operations(&MutationInput { change: &change, facts: &facts, settings: self.settings });
        if operations.is_empty() {
            return Evaluation::new(Endpoint::Mutate, request, Decision::Allowed);
        }
        let patch = Patch::of(operations);
        // A part of a patch would change something else than the user asked for. `/validate` gets the object as it is.
        if patch.text.len() > PATCH_KIB << 10 {
            let warning = format!(
                "nicplug changed nothing: the patch has more than {PATCH_KIB} KiB; change fewer NICs at a time"
            );
            return Evaluation {
                verdict: Verdict { warnings: vec![warning], ..Verdict::default() },
                ..Evaluation::new(Endpoint::Mutate, request, Decision::Warned)
            };
        }
        Evaluation {
            patch: Some(patch),
            basis: Some(Box::new(Basis::Change(change, facts))),
            ..Evaluation::new(Endpoint::Mutate, request, Decision::Patched)
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    use json_patch::PatchOperation;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        admission::{Reviewer, verdict::WARNING_LENGTH},
        facts::NoFacts,
        settings::Settings,
    };

    /// The longest answer, in bytes.
    const ANSWER: usize = 64 << 10;

    /// The answers of both endpoints to an update of a VM that requests so many NICs, each with a name and a network of
    /// these lengths.
    fn answers(nics: usize, name: usize, network: usize) -> [(Decision, Vec<u8>); 2] {
        let text = |start: &str, index: usize, length: usize| format!("{start}{index:03}{}", "x".repeat(length - 4));
        let requested: Vec<String> =
            (0..nics).map(|index| format!("{}={}", text("n", index, name), text("d", index, network))).collect();
        let vm = |annotations: Value| {
            json!({"metadata": {"name": "vm", "annotations": annotations}, "spec": {"template": {"spec":
                {"domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}]}},
                "networks": [{"name": "default", "pod": {}}]}}}})
        };
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"}, "operation": "UPDATE",
            "namespace": "demo", "name": "vm", "oldObject": vm(json!({})),
            "object": vm(json!({"nicplug.io/add-interfaces": requested.join(",")}))}})
        .to_string();
        let reviewer = Reviewer::new(std::sync::Arc::new(NoFacts), Settings::default());
        [Endpoint::Mutate, Endpoint::Validate].map(|endpoint| {
            let answer = reviewer.review(endpoint, body.as_bytes());
            assert!(answer.body.len() <= ANSWER, "{endpoint:?} {nics} {name} {network}: {}", answer.body.len());
            (answer.decision, answer.body)
        })
    }

    #[test]
    fn a_patch_that_does_not_fit_into_an_answer_is_not_made_and_the_request_is_denied() {
        for (nics, name, network, decision) in [
            (1, 63, 253, Decision::Patched),
            (80, 12, 20, Decision::Patched),
            (90, 63, 253, Decision::Warned),
            (255, 4, 4, Decision::Warned),
        ] {
            let [(mutated, patch), (validated, denial)] = answers(nics, name, network);
            assert_eq!(mutated, decision, "{nics} {name} {network}");
            let answer: Value = serde_json::from_slice(&patch).unwrap();
            if mutated == Decision::Patched {
                let patch = BASE64.decode(answer["response"]["patch"].as_str().unwrap()).unwrap();
                let operations: Vec<PatchOperation> = serde_json::from_slice(&patch).unwrap();
                assert_eq!((serde_json::to_vec(&operations).unwrap(), operations.len()), (patch, 2 * nics + 1));
                continue;
            }
            assert!(answer["response"]["patch"].is_null());
            let warning = answer["response"]["warnings"][0].as_str().unwrap();
            assert!(warning.starts_with("vm: nicplug changed nothing: the patch has more than 46 KiB"), "{warning}");
            assert!(warning.chars().count() <= "vm: ".len() + WARNING_LENGTH, "{warning}");
            // The API server sends the object as it was: the annotation that was not applied is a fault.
            let denial = String::from_utf8(denial).unwrap();
            assert_eq!(validated, Decision::Denied);
            assert!(
                denial.contains("the request was not applied") && denial.contains("patch was too long"),
                "{denial}"
            );
        }
    }
}
