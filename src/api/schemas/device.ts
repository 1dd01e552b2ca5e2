// Devices of the host on the wire, as the official client knows them. Described so that the API's description is whole; none is passed through yet.

import { z } from 'zod'
import { tags, timestamp } from './common.ts'

const address = {
  pci_address: z.string().meta({ examples: ['0000:a2:00.0'] }),
  vendor_id: z.string(),
  device_id: z.string(),
  iommu_group: z.int(),
}

export const device = z
  .object({
    id: z.string(),
    name: z.string().optional(),
    type: z.enum(['gpu', 'pci']),
    ...address,
    bound_to_vfio: z.boolean(),
    attached_to: z.string().nullable().optional().meta({ description: 'Id of the instance that has it.' }),
    created_at: timestamp,
    tags: tags.optional(),
  })
  .meta({ id: 'Device', description: 'A PCI device of the host that may be passed to an instance.' })

export const availableDevice = z
  .object({
    ...address,
    vendor_name: z.string().optional(),
    device_name: z.string().optional(),
    current_driver: z.string().nullable().optional(),
  })
  .meta({ id: 'AvailableDevice', description: 'A PCI device of the host that could be registered.' })

export const createDeviceBody = z
  .object({
    pci_address: address.pci_address,
    name: z.string().optional().meta({ description: 'By default made from the address.' }),
    tags: tags.optional(),
  })
  .meta({ id: 'CreateDevice' })

export const deviceParams = z.object({ id: z.string().min(1).meta({ description: 'Id or name.' }) })
