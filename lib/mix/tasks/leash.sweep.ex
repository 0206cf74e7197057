defmodule Mix.Tasks.Leash.Sweep do
  @shortdoc "Ends what provably dead runs left"

  @moduledoc """
  Ends what provably dead runs left: `leash sweep` with the run directory of the project.

      $ mix leash.sweep [--dry-run] [--app NAME] [--json]

  Starts neither the project nor Leash. See `mix leash.sweep --help` and `guides/cli.md` for more,
  including the exit statuses.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("sweep", arguments)
end
