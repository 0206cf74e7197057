[
  inputs: [
    "{mix,.formatter}.exs",
    "{mix,lib,test,script,bench,examples}/**/*.{ex,exs}"
  ]
]
