defmodule Kennel.MixProject do
  use Mix.Project

  def project do
    [
      app: :kennel,
      version: "1.0.0",
      elixir: "~> 1.14",
      # In an application of yours: {:leash, "~> 0.1"}
      deps: [{:leash, path: "../.."}]
    ]
  end

  def application, do: [mod: {Kennel, []}, extra_applications: [:logger]]
end
