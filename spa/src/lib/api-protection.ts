/** The calls about what a session cannot change on the host. Only places that few people open load them. */
import { find, session } from './api';
import type { ProtectionReport } from './types';

export async function protectionOfSession(id: string): Promise<ProtectionReport> {
  return (await (await find(`${session(id)}/protection`)).json()) as ProtectionReport;
}
