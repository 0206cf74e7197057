[
  inputs: [
    "{mix,.formatter}.exs",
    "{mix,lib,test,script,bench,demo,examples,chaos,soak,musl}/**/*.{ex,exs}"
  ]
]
