<<<<<<<< HEAD:spa_dist/assets/api-network-DsUDMt_r.js
import{Gt as e,Ht as t,Vt as n,Wt as r}from"./index-CmG_DHnG.js";var i=(e,t)=>`${r(e)}/ports/${t}`,a={look:async(e,t)=>await(await n(`${r(e)}/network${t?`?seen=true`:``}`)).json(),change:(t,n)=>e(`PATCH`,r(t),n),presets:()=>t(`/api/network/presets`),openPort:async(t,n)=>(await e(`POST`,i(t,n))).url,closePort:(t,n)=>e(`DELETE`,i(t,n))};export{a as t};
========
import{Gt as e,Ht as t,Vt as n,Wt as r}from"./index-C7eW9ro3.js";var i=(e,t)=>`${r(e)}/ports/${t}`,a={look:async(e,t)=>await(await n(`${r(e)}/network${t?`?seen=true`:``}`)).json(),change:(t,n)=>e(`PATCH`,r(t),n),presets:()=>t(`/api/network/presets`),openPort:async(t,n)=>(await e(`POST`,i(t,n))).url,closePort:(t,n)=>e(`DELETE`,i(t,n))};export{a as t};
>>>>>>>> 53c4bdb (Load a session's page with 8 requests):spa_dist/assets/api-network-D1fbzhmG.js
