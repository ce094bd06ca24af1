# Servers and their last step. No provider is needed to try it: `terraform_data.server` stands for the server of yours.

terraform {
  required_version = ">= 1.4"
}

variable "inventory" {
  description = "Ansible's inventory, which names the hosts."
  type        = string
  default     = "inventory.yml"
}

variable "operator_key" {
  description = "The public SSH key of the control node."
  type        = string
}

variable "policies" {
  description = "Where the control node has the policies of the hosts."
  type        = string
  default     = "/etc/trinity-snap/hosts"
}

locals {
  hosts     = yamldecode(file(var.inventory)).trinity.hosts
  user_data = templatefile("${path.module}/user-data.yml", { operator_key = trimspace(var.operator_key) })
}

# Put your provider's server in its place, with `user_data = local.user_data`, and its address into the inventory.
resource "terraform_data" "server" {
  for_each         = local.hosts
  input            = each.value.ansible_host
  triggers_replace = [each.value.ansible_host, local.user_data]
}

# Runs when a server is new, and again when it is replaced. What is secret goes neither through here nor into the state.
resource "terraform_data" "host" {
  for_each         = local.hosts
  triggers_replace = [terraform_data.server[each.key].id]

  provisioner "local-exec" {
    command = "${path.module}/provision.sh \"$HOST\" \"$LOST\""
    environment = {
      HOST      = each.key
      LOST      = lookup(each.value, "takes_the_place_of", "")
      INVENTORY = var.inventory
      POLICIES  = var.policies
    }
  }
}

output "user_data" {
  value = local.user_data
}
