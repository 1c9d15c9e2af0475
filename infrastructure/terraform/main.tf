# The APIs are disabled in an empty project. They remain enabled after `destroy`, since others may use them.
resource "google_project_service" "needed" {
  for_each = toset([
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "storage.googleapis.com",
  ])
  service            = each.key
  disable_on_destroy = false
}

resource "google_storage_bucket" "kops_state" {
  #checkov:skip=CKV_GCP_62:access logs would need a second bucket, and this one holds the state of one short-lived cluster
  name                        = var.state_bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # `just down` deletes the cluster first; only old versions of its state remain.
  force_destroy = true

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      num_newer_versions = 10
      with_state         = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }

  # Objects are always encrypted; this sets a customer-managed key.
  dynamic "encryption" {
    for_each = var.state_kms_key == "" ? [] : [var.state_kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.needed]
}
