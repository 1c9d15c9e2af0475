output "kops_state_store_bucket_name" {
  description = "export KOPS_STATE_STORE=gs://<this>"
  value       = google_storage_bucket.kops_state.name
}
