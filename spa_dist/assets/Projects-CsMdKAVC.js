import{Er as e,Kr as t,Yr as n,di as r,ur as i,w as a,wr as o}from"./index-CGPdnis8.js";import{f as s,i as c}from"./Home-SHvdi1Kd.js";var l=e(`<div class="page-inner svelte-19zetg1"><h1 class="sr">Projects</h1> <!> <!></div>`),u={hash:`svelte-19zetg1`,code:`.page-inner.svelte-19zetg1 .section-head h2 {font-size:var(--fs-page);line-height:28px;letter-spacing:-0.01em;}.page-inner.svelte-19zetg1 > .notice {margin-bottom:var(--s4);}

  /* The bar above has the same word. */
  @media (max-width: 767px) {.page-inner.svelte-19zetg1 .section-head h2 {display:none;}
  }`};function d(e){i(e,u),s(e,{name:`Projects`,children:(e,i)=>{var s=l(),u=n(t(s),2);a(u,{});var d=n(u,2);c(d,{}),r(s),o(e,s)},$$slots:{default:!0}})}export{d as default};