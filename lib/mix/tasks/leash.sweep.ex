defmodule Mix.Tasks.Leash.Sweep do
  @shortdoc "Ends what provably dead runs left"

  @moduledoc """
  Ends what provably dead runs left: `leash sweep` with the run directory of the project.

      $ mix leash.sweep [--dry-run] [--app NAME] [--json]

  Neither the project nor Leash is started. `mix leash.sweep --help` and `guides/cli.md` say more, among it what the exit statuses
  mean.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("sweep", arguments)
end
