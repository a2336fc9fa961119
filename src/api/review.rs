//! The AdmissionReview of `admission.k8s.io/v1`, request and response.
