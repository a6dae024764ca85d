import{Sr as e,Wr as t,cr as n,li as r,qr as i,w as a,wr as o}from"./index-YqUC8LPR.js";import{f as s,i as c}from"./Home-ChF-vVr9.js";var l=o(`<div class="page-inner svelte-19zetg1"><h1 class="sr">Projects</h1> <!> <!></div>`),u={hash:`svelte-19zetg1`,code:`.page-inner.svelte-19zetg1 .section-head h2 {font-size:var(--fs-page);line-height:28px;letter-spacing:-0.01em;}.page-inner.svelte-19zetg1 > .notice {margin-bottom:var(--s4);}

  /* The bar above has the same word. */
  @media (max-width: 767px) {.page-inner.svelte-19zetg1 .section-head h2 {display:none;}
  }`};function d(o){n(o,u),s(o,{name:`Projects`,children:(n,o)=>{var s=l(),u=i(t(s),2);a(u,{});var d=i(u,2);c(d,{}),r(s),e(n,s)},$$slots:{default:!0}})}export{d as default};