defmodule Mix.Tasks.Leash.Kill do
  @shortdoc "Ends what one dead run left"

  @moduledoc """
  Ends what one dead run left: `leash kill` with the run directory of the project.

      $ mix leash.kill RUN_ID [--force] [--json]

  Starts neither the project nor Leash. See `mix leash.kill --help` and `guides/cli.md` for more,
  including the exit statuses.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("kill", arguments)
end
