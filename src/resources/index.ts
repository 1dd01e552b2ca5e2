// The door of the host's resources: what there is, and to whom it is promised. Who enforces it: platform/capacity.ts, by whom it is asked.

export { suppliesOf } from './host.ts'
export { createResourceService } from './service.ts'
