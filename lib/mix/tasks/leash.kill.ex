defmodule Mix.Tasks.Leash.Kill do
  @shortdoc "Ends what one dead run left"

  @moduledoc """
  Ends what one dead run left: `leash kill` with the run directory of the project.

      $ mix leash.kill RUN_ID [--force] [--json]

  Neither the project nor Leash is started. `mix leash.kill --help` and `guides/cli.md` say more, among it what the exit statuses
  mean.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("kill", arguments)
end
