variable "project" {
  description = "Id of the project."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Region of the bucket and of the cluster."
  type        = string
  nullable    = false
}

variable "state_bucket" {
  description = "Name of the bucket for the kOps state; globally unique."
  type        = string
  nullable    = false
}

variable "state_kms_key" {
  description = "Cloud KMS key of the bucket; empty: a key managed by Google."
  type        = string
  default     = ""
}
