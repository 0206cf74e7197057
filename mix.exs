# Compiler tasks in lib/ would not be compiled yet when the first compilation needs them.
Code.require_file("mix/leash_native.exs", __DIR__)
Code.require_file("mix/leash_erlang_docs.exs", __DIR__)

defmodule Leash.MixProject do
  use Mix.Project

  # The version is written down once, for the crates and for the application.
  @external_resource Path.join(__DIR__, "Cargo.toml")
  @version Mix.Tasks.Compile.LeashNative.version(__DIR__)

  def project do
    [
      app: :leash,
      version: @version,
      elixir: "~> 1.14",
      description: "Every OS process your BEAM app starts, on a leash.",
      package: package(),
      start_permanent: Mix.env() == :prod,
      compilers: [:leash_native] ++ Mix.compilers() ++ [:leash_erlang_docs],
      elixirc_paths: elixirc_paths(Mix.env()),
      deps: []
    ]
  end

  def application do
    [
      mod: {Leash.Application, []},
      extra_applications: [:logger]
    ]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp package do
    [
      licenses: ["Apache-2.0"],
      links: %{},
      files:
        ~w(lib src mix mix.exs native .cargo Cargo.toml Cargo.lock .formatter.exs) ++
          ~w(README.md DESIGN.md CHANGELOG.md LICENSE guides) ++
          ~w(examples/*.exs examples/erlang examples/release/mix.exs examples/release/lib examples/release/rel)
    ]
  end
end
